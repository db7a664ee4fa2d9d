"""Random scores: the control that says what no information is worth.

    score(z) = a standard normal number drawn from (seed, id of z)

Cost: none. Independent of order and batching, since the stream is the candidate's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from influbench.estimator import Context, Scale, Scorer
from influbench.files import digest
from influbench.records import Example


@dataclass(frozen=True)
class Random:
    """A coin for each candidate."""

    scale: ClassVar[Scale] = "rank"
    needs: ClassVar[tuple[str, ...]] = ()
    cost: ClassVar[str] = "0; 0"
    source: ClassVar[str] = "control"

    def prepare(self, ctx: Context) -> Scorer:
        """Keeps the seed."""

        def score(examples: Sequence[Example]) -> np.ndarray:
            seeds = [int(digest(f"random:{ctx.seed}:{e.id}"), 16) for e in examples]
            return np.array([np.random.default_rng(seed).standard_normal() for seed in seeds])

        return score
