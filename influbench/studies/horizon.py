"""The influence of a step on what the student is some steps later.

    influence_k(z) = L_ref(θ after an empty step, then B₂ … B_k)
                   - L_ref(θ after a step on z,   then B₂ … B_k)

k = 1 is the exact influence. B₂ … B_k are batches of the warm-up set in a random order, the same
for every candidate and for the empty step; moments and step count go on from step to step. FiMODA
(arXiv 2412.03906) asks this of attribution: first order is good at first and decays with the
horizon. Which batches follow matters, so the study takes the mean over orders.

Cost: k backward passes of a batch and M forward passes to prepare, and again a candidate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice

import numpy as np

from influbench.data.records import Example
from influbench.estimator import Context, Examples, Facts, Scorer, Scores
from influbench.files import digest

NAME = f"{__name__}:Horizon"
"""Written where an estimator's name is expected."""


@dataclass(frozen=True)
class Horizon:
    """Exact influence after ``steps`` steps, in one order of what follows."""

    steps: int = 1
    order: int = 0
    batch_size: int = 4
    """Examples of a step after the first."""

    facts = Facts(
        "nats",
        "FiMODA, arXiv 2412.03906",
        {"gradients", "moments", "warmup"},
        ("M + 3 steps batch", "M + 3 steps batch"),
        stderr=True,
    )

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"option '{name}' must be at least 1, got {getattr(self, name)}")

    def prepare(self, ctx: Context) -> Scorer:
        """Measures the reference losses at the horizon without any candidate."""
        from influbench.derivatives.similarity import mean_over_references
        from influbench.studies.trajectory import losses_after

        batches = ctx.student.batches(ctx.reference)
        drawn = following(ctx.warmup, self.batch_size, f"horizon:{ctx.seed}:{self.order}")
        later = list(islice(drawn, self.steps - 1))
        without = losses_after(ctx.student, batches, [[], *later])

        def score(examples: Examples) -> Scores:
            rows = [without - losses_after(ctx.student, batches, [[z], *later]) for z in examples]
            return mean_over_references(np.stack(rows))

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
