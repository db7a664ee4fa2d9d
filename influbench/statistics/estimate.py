"""One number with its doubt: the only such type in the project."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A number, its 95 % interval, its standard error, and how much was seen.

    None stands for what is not known: one item has no standard error, a cost has no interval. An
    undefined number (a correlation with a constant) has the value NaN and nothing else.
    """

    value: float
    low: float | None = None
    high: float | None = None
    """Bounds of the 95 % interval; a bootstrap interval is not symmetric about the value."""
    stderr: float | None = None
    n: int
    """How many independent items it is made of: prompts, groups, candidates, pairs."""
    unit: str = ""
    """Such as ``percent``, ``nats/token``, ``s``; empty for a pure number."""

    @property
    def defined(self) -> bool:
        """Whether there is a number at all."""
        return not math.isnan(self.value)

    @property
    def bounds(self) -> tuple[float, float]:
        """Low and high for arithmetic: NaN where they are not known."""
        low = math.nan if self.low is None else self.low
        return low, math.nan if self.high is None else self.high

    def scaled(self, factor: float, unit: str) -> Estimate:
        """The same quantity in another unit; ``factor`` is positive."""

        def times(number: float | None) -> float | None:
            return None if number is None else number * factor

        return Estimate(
            value=self.value * factor,
            low=times(self.low),
            high=times(self.high),
            stderr=times(self.stderr),
            n=self.n,
            unit=unit,
        )
