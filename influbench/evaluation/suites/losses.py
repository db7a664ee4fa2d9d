"""Held-out loss: how well a student predicts good answers that it was not trained on.

The mean loss in nats per response token of the evaluation prompts' own answers, and of the
reference set, whose loss influence is about.
"""

from __future__ import annotations

from collections.abc import Sequence

from influbench.config import Config, transport
from influbench.data.records import Example, ModelRef, Outcome, Question
from influbench.evaluation.suite import Marks, Needs, Numbers, Sitting
from influbench.statistics.outcomes import summarise, values
from influbench.store import Stage, Work

METRICS = ("heldout_loss", "reference_loss")


class LossConfig(Config):
    """Nothing to set but where it runs."""

    device: str = transport("auto")


class Losses:
    """The suite ``losses``."""

    name = "losses"
    needs = Needs(turns="one")

    def mark(self, sitting: Sitting) -> Marks:
        """``heldout_loss`` of each prompt with an answer, ``reference_loss`` of each reference."""
        inputs = (
            held_out(sitting.material.prompts),
            sitting.material.reference,
            sitting.student,
        )
        entry = sitting.run(STAGE, LossConfig(device=sitting.device), *inputs)
        outcomes = entry.records("outcomes", Outcome)
        return Marks(outcomes, self.numbers(outcomes))

    def numbers(self, outcomes: Sequence[Outcome]) -> Numbers:
        """The means, nats per response token; what was not measured is left out."""
        found = {metric: values(outcomes, metric) for metric in METRICS}
        return {name: summarise(v, "nats/token") for name, v in found.items() if len(v)}


def held_out(evaluation: Sequence[Question]) -> list[Example]:
    """The evaluation prompts that carry a good answer, as examples."""
    return [
        Example(id=q.id, instruction=q.turns[0], response=q.reference[0])
        for q in evaluation
        if q.reference
    ]


def measure(
    cfg: LossConfig,
    evaluation: Sequence[Example],
    reference: Sequence[Example],
    student: ModelRef,
    *,
    work: Work,
) -> None:
    """Writes ``outcomes``: ``heldout_loss`` and ``reference_loss``, nats per response token."""
    from influbench.derivatives.gradients import losses
    from influbench.student import StudentSettings, load_student

    with work.meter.phase("load"):
        held = load_student(student, StudentSettings(device=cfg.device, moments=False))
    outcomes: list[Outcome] = []
    for metric, examples in zip(METRICS, (evaluation, reference), strict=True):
        if not examples:
            continue
        with work.meter.phase(metric, items=len(examples), models=[held.model]):
            found = losses(held, examples)
        outcomes += [
            Outcome(metric=metric, item=e.id, value=float(v))
            for e, v in zip(examples, found, strict=True)
        ]
    work.write("outcomes", outcomes)


STAGE = Stage("losses", 2, measure)
