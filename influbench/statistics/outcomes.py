"""Means of outcomes with their doubt, and differences on the same evaluation items."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv

from influbench.data.records import Outcome
from influbench.errors import UserError
from influbench.statistics import bootstrap
from influbench.statistics.estimate import Estimate


def summarise(values: npt.ArrayLike, unit: str, scale: float = 1.0) -> Estimate:
    """Mean and standard error (n - 1 in the variance) of independent items.

    Raises:
        UserError: there are no items.
    """
    items = np.asarray(values, dtype=np.float64) * scale
    if not len(items):
        raise UserError(f"expected at least one item to average ({unit}), got none")
    stderr = float(items.std(ddof=1) / np.sqrt(len(items))) if len(items) > 1 else None
    return Estimate(value=float(items.mean()), stderr=stderr, n=len(items), unit=unit)


def share(count: int, of: int) -> Estimate:
    """The share of independent items of which something is true, with its exact interval.

    Clopper and Pearson 1934, "The use of confidence or fiducial limits illustrated in the case of
    the binomial": with none of 45 it reaches from 0 to 0.079.

    Args:
        count: items of which it is true.
        of: all items, one or more.
    """
    value = count / of
    return Estimate(
        value=value,
        low=float(betaincinv(count, of - count + 1, 0.025)) if count else 0.0,
        high=float(betaincinv(count + 1, of - count, 0.975)) if count < of else 1.0,
        stderr=(value * (1 - value) / of) ** 0.5,
        n=of,
    )


def values(outcomes: Iterable[Outcome], metric: str) -> npt.NDArray[np.float64]:
    """Values of one metric, in order, shape [item]."""
    return np.array([o.value for o in outcomes if o.metric == metric], dtype=np.float64)


def by_item(outcomes: Iterable[Outcome], metric: str) -> dict[str, float]:
    """Values of one metric by item."""
    return {o.item: o.value for o in outcomes if o.metric == metric}


def summary(outcomes: Sequence[Outcome], rng: np.random.Generator) -> Estimate:
    """Mean over evaluation items, with its interval; unit of the outcomes.

    Outcomes of one item (both orders, two turns) are averaged first: they are not independent. All
    must be of one quantity; their metric names are not looked at.
    """
    return bootstrap.mean(list(_by_item(outcomes).values()), rng)


def difference(a: Sequence[Outcome], b: Sequence[Outcome], rng: np.random.Generator) -> Estimate:
    """Mean of ``a`` minus mean of ``b`` on the same evaluation items, with its paired interval.

    Raises:
        UserError: the two are not about the same items.
    """
    left, right = _by_item(a), _by_item(b)
    if odd := sorted(left.keys() ^ right.keys()):
        raise UserError(
            f"expected outcomes on the same evaluation items, got {len(odd)} that only one side "
            f"has, such as '{odd[0]}': evaluate both on the same set"
        )
    return bootstrap.paired_difference(list(left.values()), [right[item] for item in left], rng)


def grid(
    runs: Sequence[Sequence[Outcome]], metric: str, items: Sequence[str] | None = None
) -> tuple[npt.NDArray[np.float64], list[str]]:
    """One metric of several seeds as [seed, item], and the items, which every seed must have.

    Raises:
        UserError: the seeds share no item.
    """
    found = [by_item(run, metric) for run in runs]
    shared = [i for i in (items or found[0]) if all(i in seed for seed in found)]
    if not shared:
        raise UserError(f"expected '{metric}' of the same items in all {len(runs)} seeds: none is")
    return np.array([[seed[i] for i in shared] for seed in found]), shared


def _by_item(outcomes: Sequence[Outcome]) -> dict[str, float]:
    values: dict[str, list[float]] = defaultdict(list)
    for outcome in outcomes:
        values[outcome.item].append(outcome.value)
    return {item: sum(v) / len(v) for item, v in values.items()}
