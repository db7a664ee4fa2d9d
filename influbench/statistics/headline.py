"""Agreement with the oracle, and headline numbers with their intervals.

Every interval is a 95 % percentile bootstrap. Agreement resamples whole groups (a cluster
bootstrap): siblings share a seed prompt and are not independent. Headlines
resample evaluation items.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from influbench.errors import UserError
from influbench.estimator import Array, Scale
from influbench.records import Outcome, Score
from influbench.statistics.agreement import Metric, measures
from influbench.statistics.bootstrap import Estimate, interval, paired_difference

RESAMPLES = 1000
SPLITS = 5
"""Random halvings of the reference set that the ceiling is averaged over."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """One measure of how far a method agrees with the oracle; NaN where it is undefined."""

    estimator: str
    metric: str
    value: float
    low: float
    high: float
    stderr: float
    n: int
    """What was compared: candidates, groups (``*_within``) or pairs (``pair_precision*``)."""


def agreement_table(
    oracle: Sequence[Score],
    others: Mapping[str, Sequence[Score]],
    groups: Mapping[str, str],
    scales: Mapping[str, Scale],
    rng: np.random.Generator,
    *,
    oracle_scale: Scale = "nats",
    resamples: int = RESAMPLES,
) -> list[Agreement]:
    """Every method against the oracle, every metric; undefined ones are NaN.

    * ``spearman``, ``kendall`` (tau-b): over all candidates.
    * ``spearman_within``, ``kendall_within``: in each group of two or more, then the plain mean
      over groups. A group that the oracle cannot order is left out; one that the method gives equal
      scores counts as 0, since the method says nothing there.
    * ``sign_agreement``: share of candidates with the same sign; undefined on a ``rank`` scale.
      ``sign_agreement_centred``: after each side's mean is taken off, which removes an offset that
      all candidates share, such as the drift of momentum.
    * ``pair_precision``: share of the oracle's best-and-worst pairs, one a group, that the method
      orders the same way; a tie counts one half. ``pair_precision_margin``: of all pairs of
      siblings that the oracle separates by two standard errors.
    * ``top_overlap``: share of the oracle's best quarter in the method's best quarter, ties broken
      at random in expectation; 0.25 is chance.

    Args:
        oracle: its scores.
        others: scores by method, about the same candidates in any order.
        groups: candidate id to group; candidates without one ("" or absent) stand alone.
        scales: scale by method.
        rng: the only source of randomness. Intervals do not depend on which methods are compared.
        oracle_scale: scale of the oracle.
        resamples: of the bootstrap.

    Raises:
        UserError: a method scored other candidates than the oracle.
    """
    clusters = _clusters([s.id for s in oracle], groups)
    seed = int(rng.integers(2**62))
    table: list[Agreement] = []
    for name, scores in others.items():
        zero = "rank" not in (scales[name], oracle_scale)
        metrics = measures(oracle, _aligned(name, oracle, scores), clusters, zero)
        table += _rows(name, metrics, len(clusters), seed, resamples)
    return table


def ceiling(
    oracle: Sequence[Score],
    groups: Mapping[str, str],
    rng: np.random.Generator,
    *,
    name: str = "ceiling",
    resamples: int = RESAMPLES,
) -> list[Agreement]:
    """The oracle against itself on disjoint halves of the references: what agreement can reach.

    The mean over ``SPLITS`` random halvings. Half the references make a noisier oracle than all of
    them, so it understates the ceiling of the full oracle. Empty where the scores carry no values
    per reference, or fewer than four.
    """
    table = [s.per_reference or () for s in oracle]
    size = min(map(len, table), default=0)
    if size < 4:
        return []
    values = np.array(table, dtype=np.float64)
    clusters = _clusters([s.id for s in oracle], groups)
    splits = []
    for _ in range(SPLITS):
        order = rng.permutation(size)
        halves = [_part(oracle, values[:, order[k::2]]) for k in (0, 1)]
        splits.append(measures(halves[0], halves[1], clusters, zero=True))
    merged = {metric: _mean_of([split[metric] for split in splits]) for metric in splits[0]}
    return _rows(name, merged, len(clusters), int(rng.integers(2**62)), resamples)


def summary(outcomes: Sequence[Outcome], rng: np.random.Generator) -> Estimate:
    """Mean over evaluation items, with its interval; unit of the outcomes.

    Outcomes of one item (both orders, two turns) are averaged first: they are not independent. All
    must be of one quantity; their metric names are not looked at.
    """
    values = np.array(list(_by_item(outcomes).values()))
    return interval(values, lambda x: float(x.mean()), rng)


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
    return paired_difference(list(left.values()), [right[item] for item in left], rng)


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


def headline(estimates: pd.DataFrame) -> pd.DataFrame:
    """The numbers of each label's last round, put together over seeds (``over_seeds``).

    The label is the estimator, or ``estimator (run)`` where a study holds several configurations of
    one estimator and seed: different settings are never averaged.

    Args:
        estimates: ``Study.estimates``.

    Returns:
        Columns label, estimator, metric, value, low, high, n (largest over seeds), seeds, unit.
    """
    rows: list[dict[str, Any]] = estimates.to_dict("records")  # type: ignore[assignment]
    cells: dict[tuple[str, str], dict[tuple[int, int], dict[str, Any]]] = {}
    several = _several(rows)
    for row in rows:
        name = row["estimator"]
        label = f"{name} ({row['run']})" if name in several else name
        # Runs of one study share stages, so the same number may stand in several of them.
        cells.setdefault((label, row["metric"]), {})[row["round"], row["seed"]] = row
    table = []
    for (label, metric), found in cells.items():
        newest = max(number for number, _ in found)
        last = [row for (number, _), row in found.items() if number == newest]
        bounds = over_seeds(*([row[c] for row in last] for c in ("value", "low", "high")))
        size = (max(row["n"] for row in last), len(last))
        table.append((label, last[0]["estimator"], metric, *bounds, *size, last[0]["unit"]))
    columns = ["label", "estimator", "metric", "value", "low", "high", "n", "seeds", "unit"]
    return pd.DataFrame(table, columns=columns)


def _several(rows: Sequence[dict[str, Any]]) -> set[str]:
    """Estimators with two different values of one metric in one round and seed."""
    values: dict[tuple[Any, ...], set[float]] = defaultdict(set)
    for row in rows:
        values[row["estimator"], row["metric"], row["round"], row["seed"]].add(row["value"])
    return {key[0] for key, found in values.items() if len(found) > 1}


def _rows(
    name: str, metrics: Mapping[str, Metric], clusters: int, seed: int, resamples: int
) -> list[Agreement]:
    rows = []
    for metric, measure in metrics.items():
        # The same draws for every method and metric: differences between rows are not Monte Carlo.
        found = interval(
            np.arange(clusters), measure.statistic, np.random.default_rng(seed), resamples
        )
        rows.append(
            Agreement(
                estimator=name,
                metric=metric,
                value=found.value,
                low=found.low,
                high=found.high,
                stderr=found.stderr,
                n=measure.n,
            )
        )
    return rows


def _mean_of(parts: Sequence[Metric]) -> Metric:
    return Metric(
        lambda drawn: float(np.mean([part.statistic(drawn) for part in parts])), parts[0].n
    )


def _part(oracle: Sequence[Score], values: Array) -> list[Score]:
    return [
        Score(id=s.id, value=float(row.mean()), per_reference=tuple(map(float, row)))
        for s, row in zip(oracle, values, strict=True)
    ]


def _clusters(ids: Sequence[str], groups: Mapping[str, str]) -> list[np.ndarray]:
    """Positions of the candidates of each group; a candidate without a group is its own."""
    members: dict[tuple[str, str], list[int]] = defaultdict(list)
    for position, name in enumerate(ids):
        group = groups.get(name, "")
        members[(group, "") if group else ("", name)].append(position)
    return [np.array(positions) for positions in members.values()]


def _aligned(name: str, oracle: Sequence[Score], scores: Sequence[Score]) -> list[Score]:
    by_id = {s.id: s for s in scores}
    if odd := sorted({s.id for s in oracle} ^ by_id.keys()):
        raise UserError(
            f"expected '{name}' to score the oracle's {len(oracle)} candidates, got {len(scores)}: "
            f"id '{odd[0]}' is on one side only ({len(odd)} such ids); score one file with both"
        )
    return [by_id[s.id] for s in oracle]


def _by_item(outcomes: Sequence[Outcome]) -> dict[str, float]:
    values: dict[str, list[float]] = defaultdict(list)
    for outcome in outcomes:
        values[outcome.item].append(outcome.value)
    return {item: sum(v) / len(v) for item, v in values.items()}
