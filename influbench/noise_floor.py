"""The noise floor of a run: how far a score moves when only the batching of the references does.

In exact arithmetic nothing would move. In floating point a batch of another shape takes other
kernels and sums in another order, so every loss has noise in its last bits, and an influence is a
small difference of two losses. A difference between candidates that is no larger than this noise
says nothing: preferences treat it as a tie.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from influbench.estimator import Context, Estimator, Student, as_scores
from influbench.records import Example, digest

if TYPE_CHECKING:
    import torch

PARTS = 3
"""Random parts that are batched apart: enough to break up every batch of similar lengths."""


@dataclass(frozen=True)
class Regrouped:
    """A student whose batches are put together by chance; all else is the student's own."""

    student: Student
    seed: str

    @property
    def model(self) -> torch.nn.Module:
        """The student's network."""
        return self.student.model

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The student's optimizer."""
        return self.student.optimizer

    @property
    def clip_norm(self) -> float | None:
        """The training's clip norm."""
        return self.student.clip_norm

    def loss(self, examples: Sequence[Example]) -> torch.Tensor:
        """Per-example loss, shape [example]."""
        return self.student.loss(examples)

    def batches(self, examples: Sequence[Example]) -> list[list[int]]:
        """The student's batches of random parts of the examples, rows in random order."""
        rng = np.random.default_rng(int(digest(self.seed), 16))
        found: list[list[int]] = []
        for part in np.array_split(rng.permutation(len(examples)), PARTS):
            if len(part):
                batches = self.student.batches([examples[i] for i in part])
                found += [[int(part[i]) for i in rng.permutation(batch)] for batch in batches]
        return found


def noise_floor(
    estimator: Estimator, ctx: Context, candidates: Sequence[Example], *, repeats: int = 3
) -> float:
    """The difference of two scores, in score units, that batching alone exceeds in one case of 20.

    2√2 times the standard deviation of one candidate's score over ``repeats`` random batchings of
    the references (baseline included), pooled over the candidates. It costs ``repeats`` times what
    preparing and scoring these candidates costs; four of them give a usable estimate.

    Args:
        estimator: the method; options that need a language model's internals are not supported.
        ctx: what the scores were made with.
        candidates: one or more.
        repeats: 2 or more.
    """
    assert repeats > 1
    assert candidates
    values = np.stack(
        [
            as_scores(
                estimator.prepare(
                    dataclasses.replace(
                        ctx, student=Regrouped(ctx.student, f"noise:{ctx.seed}:{repeat}")
                    )
                )(candidates),
                len(candidates),
            ).value
            for repeat in range(repeats)
        ]
    )
    return float(2 * np.sqrt(2 * values.var(axis=0, ddof=1).mean()))
