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

from influbench import registry
from influbench.estimator import Context, Estimator, Student, as_scores
from influbench.files import digest
from influbench.records import Example, ModelRef
from influbench.scoring.stage import MethodConfig, hold
from influbench.store import Stage, Work

if TYPE_CHECKING:
    import torch

PARTS = 3
"""Random parts that are batched apart: enough to break up every batch of similar lengths."""
SAMPLE = 3
"""Candidates that a run measures its floor on."""
REPEATS = 2
"""Batchings of the references in a run."""
OWN_BATCHES = ("batch_mean_reference", "pad_to")
"""Options of ``exact`` that fix its batches: they are left out where batches are varied."""


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
    preparing and scoring these candidates costs. With few degrees of freedom, (repeats - 1) times
    candidates, it is an order of magnitude.

    Args:
        estimator: the method; it leaves the batches to the student.
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


def measure(
    cfg: MethodConfig,
    candidates: Sequence[Example],
    reference: Sequence[Example],
    warmup: Sequence[Example],
    student: ModelRef,
    *,
    work: Work,
) -> None:
    """Leaves the run's ``noise_floor`` in the entry's meta, from a few of its candidates."""
    options = {k: v for k, v in cfg.options.items() if k not in OWN_BATCHES}
    method = registry.build(cfg.estimator, options)
    held = hold(cfg, student, work)
    sample = sorted(candidates, key=lambda e: digest(f"noise:{cfg.seed}:{e.id}"))[:SAMPLE]
    ctx = Context(held, tuple(reference), tuple(warmup), work.folder("scratch"), cfg.seed)
    with work.meter.phase("run", items=len(sample), models=[held.model]):
        work.meta["noise_floor"] = noise_floor(method, ctx, sample, repeats=REPEATS)


STAGE = Stage("noise_floor", 2, measure)
