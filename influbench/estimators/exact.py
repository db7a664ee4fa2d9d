"""Exact one-step influence: take the step, look at the reference losses, undo the step.

    influence(z) = L_ref(θ + u(0)) - L_ref(θ + u(∇ℓ(z)))        (baseline = "null")
    influence(z) = L_ref(θ)        - L_ref(θ + u(∇ℓ(z)))        (baseline = "before", the paper's)

u is the next AdamW step with the warm-up's moments, step count, learning rate, weight decay and the
training's own clipping (``derivatives.step``). With warmed moments even an empty step moves the
loss, so the paper's baseline mixes momentum into the sign; the two differ by one constant, which is
kept with the scores (``reference_loss_before``, ``reference_loss_null``).

Paper mode: the released code differs in ways that each have a switch here, all off by default;
``PAPER_MODE`` turns on those that are options of this method. ``student.dtype = bfloat16`` is one
of another stage: weights and moments are then bf16, and the share of weights that a step moves at
all is kept as ``weights_moved``.

Source: Yu et al., Montessori-Instruct, arXiv 2410.14208, "local data influence". That further
training minus an empty further training is the standard to judge attribution by is FiMODA's, arXiv
2412.03906, over more steps and averaged over seeds. Deviations from the first's released code
without the switches: fp32, clipping as in training, mean over examples of per-example losses,
weights restored from memory and not from disk, no division by the number of workers.
Cost: 2M forward passes to prepare, 3 + M per candidate (M references; a backward counts as two
forwards).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from influbench.data.records import Example
from influbench.errors import UserError
from influbench.estimator import Array, Context, Examples, Facts, Need, Scorer, Scores, Student

if TYPE_CHECKING:
    from influbench.derivatives.gradients import Tensors
    from influbench.derivatives.step import Update

PAPER_MODE: Mapping[str, Any] = MappingProxyType(
    {
        "baseline": "before",
        "clip": False,
        "divide_by_workers": 8,
        "batch_mean_reference": 8,
        "pad_to": 1024,
    }
)
"""Options that make this method the released code's, on the 8 GPUs of the paper."""


@dataclass(frozen=True)
class Exact:
    """The oracle that every other method is judged by."""

    baseline: Literal["null", "before"] = "null"
    clip: bool = True
    """Clip the gradient as the training does; the released code does not."""
    divide_by_workers: int = 1
    """Divide the gradient by so many: the released code does, by the number of its GPUs."""
    batch_mean_reference: int = 0
    """The reference loss is the mean over batches of so many references of the mean over a batch's
    tokens (the released code: 8); 0 = the mean over references of their own means."""
    pad_to: int = 0
    """Pad every batch to so many tokens (the released code: 1024)."""

    def __post_init__(self) -> None:
        if self.divide_by_workers < 1:
            raise ValueError(
                f"option 'divide_by_workers' must be at least 1, got {self.divide_by_workers}"
            )
        for name in ("batch_mean_reference", "pad_to"):
            if getattr(self, name) < 0:
                raise ValueError(f"option '{name}' must not be negative, got {getattr(self, name)}")

    @property
    def facts(self) -> Facts:
        """A language model is needed by the options that look at tokens."""
        needs: set[Need] = {"gradients", "moments"}
        if self.pad_to or self.batch_mean_reference:
            needs.add("language_model")
        source = "Montessori-Instruct, arXiv 2410.14208"
        return Facts("nats", source, needs, ("2M", "M+3"), stderr=True, objectives=True)

    def prepare(self, ctx: Context) -> Scorer:
        """Measures the reference losses before any step and after the empty one."""
        from influbench.derivatives import gradients, graphed, objective, step
        from influbench.derivatives.similarity import mean_over_references

        student = self._student(ctx)
        target = objective.target(dataclasses.replace(ctx, student=student))
        batches, shares = student.batches(target.examples), self._shares(ctx)
        trip = step.excursion(self.update(student), student)
        single = graphed.one_by_one(student, trip.update.weights)

        def losses() -> Array:
            return target.values(gradients.losses_of(student, batches)) * shares

        with trip.still():
            before = losses()
        with trip.stepped(None):
            null = losses()
        start = null if self.baseline == "null" else before

        def drops(example: Example) -> tuple[Array, float]:
            with trip.stepped(self._divided(single(example))):
                return start - losses(), trip.moved() if trip.rounds else 1.0

        def score(examples: Examples) -> Scores:
            results = [drops(example) for example in examples]
            table = np.stack([row for row, _ in results])
            facts = {
                "reference_loss_before": float(before.mean()),
                "reference_loss_null": float(null.mean()),
            }
            if trip.rounds:
                facts["weights_moved"] = float(np.mean([moved for _, moved in results]))
            return mean_over_references(table, facts)

        return score

    def update(self, student: Student) -> Update:
        """The student's next step, without the clipping where that is off."""
        from influbench.derivatives import step

        return step.next_update(student, clip=self.clip)

    def _divided(self, gradient: Tensors) -> Tensors:
        """The gradient that the step is taken with, clipping aside."""
        if self.divide_by_workers == 1:
            return gradient
        # One in bf16 is the rounded sum of a product; its quotient is not to be rounded again.
        wide = [g if g.dtype.itemsize > 2 else g.float() for g in gradient]
        return [g.div_(self.divide_by_workers) for g in wide]

    def _student(self, ctx: Context) -> Student:
        if not self.pad_to:
            return ctx.student
        student = ctx.language_student()
        return dataclasses.replace(student, pad_to=self.pad_to)

    def _shares(self, ctx: Context) -> Array:
        """Factors on the references' own losses, whose mean is then the reference loss wanted."""
        count, size = len(ctx.reference), self.batch_mean_reference
        if not size:
            return np.ones(count)
        if ctx.objective != "nll":
            raise UserError(
                "option 'batch_mean_reference' of 'exact' is another mean of likelihoods: expected "
                f"scoring.objective = nll with it, got {ctx.objective}"
            )
        held = ctx.language_student()
        rows = [held.encode(e) for e in ctx.reference]
        tokens = np.array([len(row.learned) for row in rows], dtype=float)
        parts = [tokens[i : i + size] for i in range(0, count, size)]
        return np.concatenate([p / p.sum() for p in parts]) * count / len(parts)
