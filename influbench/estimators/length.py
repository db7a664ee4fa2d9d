"""Length: the number of characters of the response, the control that judges are known to love.

    score(z) = characters of the response, or of all the assistant's turns

Cost: none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from influbench.estimator import Context, Scale, Scorer
from influbench.records import Example


@dataclass(frozen=True)
class Length:
    """Longer is better."""

    scale: ClassVar[Scale] = "rank"
    needs: ClassVar[tuple[str, ...]] = ()
    cost: ClassVar[str] = "0; 0"
    source: ClassVar[str] = "control"

    def prepare(self, ctx: Context) -> Scorer:  # noqa: ARG002
        """Nothing to prepare."""

        def score(examples: Sequence[Example]) -> np.ndarray:
            return np.array([float(sum(map(len, e.answers))) for e in examples])

        return score
