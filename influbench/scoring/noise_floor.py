"""The noise floor of a run: how far a score moves when only the batching of the references does.

In exact arithmetic nothing would move. In floating point a batch of another shape takes other
kernels and sums in another order, so every loss has noise in its last bits, and an influence is a
small difference of two losses. A difference between candidates that is no larger than this noise
says nothing: preferences treat it as a tie.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from influbench.data.records import Example, ModelRef
from influbench.estimator import Context, Estimator, as_scores, granting, registry
from influbench.executors import team
from influbench.files import digest
from influbench.scoring.holding import hold
from influbench.scoring.settings import MethodConfig
from influbench.store import Stage, Work

SAMPLE = 3
"""Candidates that a run measures its floor on."""
REPEATS = 2
"""Batchings of the references in a run."""
OWN_BATCHES = ("batch_mean_reference", "pad_to")
"""Options of ``exact`` that fix its batches: they are left out where batches are varied."""


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
    from influbench.scoring.regrouped import regrouped

    assert repeats > 1
    assert candidates
    values = np.stack(
        [
            as_scores(
                granting.prepare(
                    estimator,
                    dataclasses.replace(
                        ctx, student=regrouped(ctx.student, f"noise:{ctx.seed}:{repeat}")
                    ),
                    ctx.name,
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
    if cfg.placement == "sharded" and not team.follows():
        team.call(measure, cfg, candidates, reference, warmup, student)
    options = {k: v for k, v in cfg.options.items() if k not in OWN_BATCHES}
    method = registry.build(cfg.estimator, options)
    held = hold(cfg, student, work)
    sample = sorted(candidates, key=lambda e: digest(f"noise:{cfg.seed}:{e.id}"))[:SAMPLE]
    ctx = Context(
        student=held,
        reference=tuple(reference),
        warmup=tuple(warmup),
        scratch=work.folder("scratch"),
        seed=cfg.seed,
        objective=cfg.objective,
        dpo_beta=cfg.dpo_beta,
        name=cfg.estimator,
    )
    with work.meter.phase("run", items=len(sample), models=[held.model]):
        work.meta["noise_floor"] = noise_floor(method, ctx, sample, repeats=REPEATS)


STAGE = Stage("noise_floor", 2, measure)
