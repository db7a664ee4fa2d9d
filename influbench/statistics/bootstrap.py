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
AT_ONCE = 1 << 14
"""Drawn items that are averaged in one go: they stay in the cache."""


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
    return _bounded(value, draws[~np.isnan(draws)], len(items), level)


def mean(values: npt.ArrayLike, rng: np.random.Generator, resamples: int = RESAMPLES) -> Estimate:
    """The mean with its interval: :func:`interval` of it, from the same draws, many at a time.

    Args:
        values: shape [item], independent.
        rng: the only source of randomness.
        resamples: how many times the items are drawn.
    """
    items = np.asarray(values, dtype=np.float64)
    if not len(items) or np.isnan(items.mean()):
        return Estimate(value=math.nan, n=len(items))
    draws, rows = np.empty(resamples), max(1, AT_ONCE // len(items))
    for first in range(0, resamples, rows):
        part = draws[first : first + rows]
        part[:] = items[rng.integers(len(items), size=(len(part), len(items)))].mean(axis=1)
    return _bounded(float(items.mean()), draws, len(items), level=0.95)


def _bounded(value: float, draws: npt.NDArray[np.float64], n: int, level: float) -> Estimate:
    if n < 2 or len(draws) < 2:
        return Estimate(value=value, n=n)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(
        value=value,
        low=float(low),
        high=float(high),
        stderr=float(draws.std(ddof=1)),
        n=n,
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
    return mean(left - right, rng, resamples)
