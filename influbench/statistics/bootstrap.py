"""Bootstrap intervals: numpy only, a Generator in, always."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from influbench.errors import UserError
from influbench.statistics.estimate import Estimate

RESAMPLES = 2000
"""Enough that the Monte-Carlo error of a bound is a few per cent of the interval's width."""


def interval(
    values: npt.ArrayLike,
    statistic: Callable[[np.ndarray], float],
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    level: float = 0.95,
) -> Estimate:
    """The statistic of ``values`` with its percentile bootstrap interval.

    Resamples in which the statistic is undefined (NaN) are left out of the interval.

    Args:
        values: shape [item, ...]; items are independent and are drawn with replacement. Pass
            cluster numbers to resample clusters.
        statistic: of an array of shape [item, ...]; may return NaN.
        rng: the only source of randomness.
        resamples: how many times the items are drawn.
        level: coverage of the interval.
    """
    items = np.asarray(values)
    value = float(statistic(items)) if len(items) else np.nan
    if np.isnan(value):
        return Estimate(value=math.nan, n=len(items))
    draws = np.array(
        [statistic(items[rng.integers(len(items), size=len(items))]) for _ in range(resamples)],
        dtype=np.float64,
    )
    draws = draws[~np.isnan(draws)]
    if len(items) < 2 or len(draws) < 2:
        return Estimate(value=value, n=len(items))
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(
        value=value,
        low=float(low),
        high=float(high),
        stderr=float(draws.std(ddof=1)),
        n=len(items),
    )


def paired_difference(
    a: npt.ArrayLike, b: npt.ArrayLike, rng: np.random.Generator, resamples: int = RESAMPLES
) -> Estimate:
    """Mean of ``a - b`` with its interval, resampling items: both are about the same items.

    Args:
        a: shape [item].
        b: shape [item], in the same order.
        rng: the only source of randomness.
        resamples: how many times the items are drawn.

    Raises:
        UserError: the shapes differ.
    """
    left, right = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if left.shape != right.shape or left.ndim != 1:
        raise UserError(
            f"expected two lists of numbers about the same items, got shapes {left.shape} and "
            f"{right.shape}"
        )
    return interval(left - right, lambda gaps: float(gaps.mean()), rng, resamples)
