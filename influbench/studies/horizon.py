"""The influence of a step on what the student is some steps later.

    influence_k(z) = L_ref(θ after an empty step, then B₂ … B_k)
                   - L_ref(θ after a step on z,   then B₂ … B_k)

k = 1 is the exact influence. B₂ … B_k are batches of the warm-up set in a random order, the same
for every candidate and for the empty step; moments and step count go on from step to step. FiMODA
(arXiv 2412.03906) asks this of attribution: first order is good at first and decays with the
horizon. Which batches follow matters, so the study takes the mean over orders.

All k of one order lie on one way, which is walked once.

Cost: as many backward passes of a batch as the largest k, and M forward passes for each k, to
prepare and again a candidate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice

import numpy as np

from influbench.data.records import Example
from influbench.estimator import Context, Examples, Facts, Need, Scorer, Scores
from influbench.files import digest

NAME = f"{__name__}:Horizon"
"""Written where an estimator's name is expected."""


@dataclass(frozen=True)
class Horizon:
    """Exact influence after some numbers of steps, in one order of what follows.

    What stands in ``per_reference`` is a number a horizon, in the order of ``steps``, each the mean
    over references; ``value`` is their mean.
    """

    steps: tuple[int, ...] = (1,)
    order: int = 0
    batch_size: int = 4
    """Examples of a step after the first."""

    @property
    def facts(self) -> Facts:
        """Passes by the number of steps and of horizons."""
        walk = f"{len(self.steps)}M + {3 * max(self.steps)} batch"
        needs: set[Need] = {"gradients", "moments", "warmup"}
        return Facts("nats", "FiMODA, arXiv 2412.03906", needs, (walk, walk))

    def __post_init__(self) -> None:
        for name, least in (("steps", min(self.steps, default=0)), ("batch_size", self.batch_size)):
            if least < 1:
                raise ValueError(f"option '{name}' must be at least 1, got {getattr(self, name)}")

    def prepare(self, ctx: Context) -> Scorer:
        """Measures the reference losses at the horizons without any candidate."""
        from influbench.studies.trajectory import losses_along

        batches = ctx.student.batches(ctx.reference)
        drawn = following(ctx.warmup, self.batch_size, f"horizon:{ctx.seed}:{self.order}")
        later = list(islice(drawn, max(self.steps) - 1))

        def losses(first: Sequence[Example]) -> np.ndarray:
            return losses_along(ctx.student, batches, [first, *later], self.steps)

        without = losses([])

        def score(examples: Examples) -> Scores:
            rows = np.stack([(without - losses([z])).mean(axis=1) for z in examples])
            return Scores(value=rows.mean(axis=1), per_reference=rows)

        return score


def following(examples: Examples, size: int, seed: str) -> Iterator[list[Example]]:
    """Batches without end: each pass over the examples in an order of its own.

    Args:
        examples: what the batches are made of.
        size: of a batch; a pass ends with a whole batch or before it.
        seed: names the orders.
    """
    size = min(size, len(examples))
    for number in count():
        order = sorted(examples, key=lambda e: digest(f"{seed}:{number}:{e.id}"))
        for start in range(0, len(order) - size + 1, size):
            yield order[start : start + size]
