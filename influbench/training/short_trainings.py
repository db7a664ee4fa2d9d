"""Many short trainings from one state of a student, of which only a loss is kept.

Each is the training of the stage ``sft``; no student is written, since hundreds of them would fill
a disk. The student is loaded once and its weights are put back before each training.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace

import torch

from influbench.data.records import Example, ModelRef
from influbench.derivatives.gradients import losses
from influbench.store import Work
from influbench.student import LanguageStudent
from influbench.training import trainer
from influbench.training.fine_tuning import learnt, loaded
from influbench.training.settings import SFTConfig
from influbench.training.subsets import Heard, Subset

TOKENS = 2048
"""Padded tokens in one pass over the held-out examples."""


def short_trainings(
    cfg: SFTConfig,
    subsets: Sequence[Subset],
    examples: Sequence[Example],
    held_out: Sequence[Example],
    student: ModelRef,
    *,
    work: Work,
) -> None:
    """Trains on each subset of the examples; leaves one ``losses`` record a subset, in order.

    Raises:
        UserError: an example that is too long, or a loss that is not finite.
    """
    known = {example.id: example for example in examples}
    held: LanguageStudent | None = None
    before: list[torch.Tensor] = []

    def fresh() -> LanguageStudent:
        nonlocal held
        # What else a training leaves on its model is known of a plain one only.
        plain = cfg.method == "full" and cfg.compute == "float32"
        if held is None or not plain:
            with work.meter.phase("load"):
                held = loaded(cfg, student)
            before[:] = [w.detach().clone() for w in held.model.parameters()] if plain else []
        with torch.no_grad():
            for weight, kept in zip(held.model.parameters(), before, strict=False):
                weight.copy_(kept)
                weight.grad = None
        return held

    def train(one: list[Subset]) -> list[Heard]:
        nonlocal held
        (subset,) = one
        now = fresh()
        if subset.ids:
            encoded = [now.encode(known[name]) for name in subset.ids]
            learnt(cfg, encoded, now, work=work)
            # The next training must not go on from this one's checkpoint.
            shutil.rmtree(work.path / trainer.CHECKPOINTS, ignore_errors=True)
        held = replace(now, model=now.model.eval())
        with work.meter.phase("heldout_loss", items=len(held_out), models=[held.model]):
            found = losses(replace(held, token_budget=TOKENS), held_out)
        return [Heard(loss=float(found.mean()))]

    work.write("losses", work.chunks("trainings", list(subsets), train, size=1, kind=Heard))
