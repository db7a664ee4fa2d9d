"""The student that a user gives: found, warmed up where that is wanted, and what its step hangs on.

Its identity covers all that the step hangs on: moments, learning rate, clip and the weights that
were trained. A ``training_args.bin`` that is added later makes another student of it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from influbench import models, training
from influbench.data.records import Example, ModelRef
from influbench.errors import UserError
from influbench.files import digest
from influbench.models import ModelConfig
from influbench.models.templates import add_to
from influbench.store.session import Session
from influbench.student import History, Told, checkpoint
from influbench.training import WarmupConfig


class StudentConfig(ModelConfig, Told):
    """Which student, and how it steps where its folder does not say or that is to be otherwise."""

    def told(self) -> Told:
        """How it steps."""
        return Told(**{name: getattr(self, name) for name in Told.model_fields})


@dataclass(frozen=True)
class Given:
    """A student with what is known of its training."""

    ref: ModelRef
    told: Told
    history: History
    warmed_on: int = 0
    """Examples of the warm-up that gave it its moments; 0 = its own."""

    @property
    def steps(self) -> bool:
        """Whether its optimizer can take a step that moves something."""
        return bool(self.history.optimizer and self.history.learning_rate)

    @property
    def has_optimizer(self) -> bool:
        """Whether there is an optimizer in its folder, of use or not."""
        return (Path(self.ref.path) / checkpoint.FILE).is_file()

    def hangs_on(self, needs: Set[str], options: dict[str, Any]) -> History | None:
        """What a method's scores hang on of the training; None where nothing.

        Args:
            needs: the method's.
            options: its options, of which ``clip`` may be one.
        """
        if "moments" not in needs:
            return None
        if options.get("clip") is False:
            return dataclasses.replace(self.history, clip_norm=None, clip_from="option clip=false")
        return self.history

    def notes(self, needs: Set[str]) -> list[str]:
        """What must be said of the optimizer to a reader of a method that needs no moments."""
        if "moments" in needs or "gradients" not in needs or not self.has_optimizer:
            return []
        if self.history.why_not:
            return [f"gradients are by all weights: {self.history.why_not}"]
        return [f"the weights: {self.history.trained}"]


def find(cfg: StudentConfig, session: Session) -> Given:
    """The student of a configuration, with its template.

    Raises:
        UserError: there is no such student.
    """
    ref, told = models.resolve(cfg.name, cfg.revision), cfg.told()
    history = _known(ref, told)
    path = Path(ref.path) / checkpoint.FILE
    if path.is_file():
        with path.open("rb") as file:
            moments = hashlib.file_digest(file, "sha256").hexdigest()
        facts = json.dumps(history.facts(), sort_keys=True)
        ref = dataclasses.replace(ref, digest=digest(f"{ref.digest}:{moments}:{facts}"))
    return Given(session.opened(add_to(ref, cfg, session.run)), told, history)


def warmed(given: Given, warm: Sequence[Example], cfg: WarmupConfig, session: Session) -> Given:
    """The student after a warm-up, which stands in for an optimizer that cannot be used.

    Raises:
        UserError: it has an optimizer that can.
    """
    if given.steps:
        raise UserError(
            f"{given.ref.path} holds {checkpoint.FILE} and a warm-up set is given too: expected "
            "one of them; leave --warmup out to use the checkpoint's own moments"
        )
    if given.has_optimizer:
        session.note(f"the moments are the warm-up's: {given.history.why_not or 'its rate is 0'}")
    # Its own rate and clip are the warm-up's settings; what is told of them holds for the step.
    told = Told(trained=given.told.trained, adapter=given.told.adapter)
    entry = session.run(training.WARM_UP, cfg.model_copy(update={"told": told}), warm, given.ref)
    ref = session.opened(entry.model("student"))
    return Given(ref, given.told, _known(ref, given.told), len(warm))


def _known(ref: ModelRef, told: Told) -> History:
    folder = Path(ref.path)
    if not (folder / checkpoint.FILE).is_file():
        return History(why_not=checkpoint.why_none(folder))
    kept = checkpoint.keeps_adapter(folder, told)
    return checkpoint.history_of(models.outline(ref, keep_adapter=kept), folder, told)
