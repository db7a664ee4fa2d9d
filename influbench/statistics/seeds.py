"""One number over several seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats


def over_seeds(
    values: Sequence[float], lows: Sequence[float], highs: Sequence[float]
) -> tuple[float, float, float]:
    """Mean over seeds with a 95 % interval that holds both kinds of doubt.

    The spread over seeds (Student's t) and the mean half-width of the seeds' own intervals, which
    share their evaluation items and so do not shrink with more seeds, are added in quadrature. One
    seed keeps its own interval.
    """
    if len(values) == 1:
        return values[0], lows[0], highs[0]
    x = np.asarray(values, dtype=np.float64)
    value = float(x.mean())
    spread = float(stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x)))
    below = float(np.mean(x - np.asarray(lows)))
    above = float(np.mean(np.asarray(highs) - x))
    if math.isnan(below + above):  # no interval of their own, such as a measured cost
        return value, value - spread, value + spread
    return value, value - math.hypot(spread, below), value + math.hypot(spread, above)
