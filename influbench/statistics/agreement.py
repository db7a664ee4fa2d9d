"""Measures of how far two score lists agree, as functions of which groups are drawn.

What each metric means stands in ``against_oracle.agreement_table``; here it is computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from influbench.data.records import Score
from influbench.estimator import Array

MARGIN_STDERRS = 2.0
"""Standard errors beyond which the oracle's own order of two siblings is held to be known."""


@dataclass(frozen=True)
class Metric:
    """One measure, ready to be resampled."""

    statistic: Callable[[np.ndarray], float]
    """Of cluster numbers, shape [draw]; NaN where undefined."""
    n: int
    """What is compared: candidates, groups or pairs."""


def measures(
    oracle: Sequence[Score], method: Sequence[Score], clusters: Sequence[np.ndarray], zero: bool
) -> dict[str, Metric]:
    """Every metric of two score lists about the same candidates, by name.

    Args:
        oracle: one score a candidate; its standard errors, if any, choose the margin pairs.
        method: in the same order.
        clusters: positions of the candidates of each group.
        zero: whether both scales have one, so that signs mean something.
    """
    x = np.array([s.value for s in oracle], dtype=np.float64)
    y = np.array([s.value for s in method], dtype=np.float64)

    def whole(function: Callable[[Array, Array], float]) -> Metric:
        def statistic(drawn: np.ndarray) -> float:
            rows = np.concatenate([clusters[i] for i in drawn])
            return function(x[rows], y[rows])

        return Metric(statistic, len(x))

    return {
        "spearman": whole(spearman),
        "kendall": whole(kendall),
        "spearman_within": _within(spearman, x, y, clusters),
        "kendall_within": _within(kendall, x, y, clusters),
        "sign_agreement": whole(_same_sign if zero else _undefined),
        "sign_agreement_centred": whole(_same_sign_centred if zero else _undefined),
        "pair_precision": _ordered_alike(y, [_extremes(x, rows) for rows in clusters]),
        "pair_precision_margin": _ordered_alike(y, [_separated(oracle, r) for r in clusters]),
        "top_overlap": whole(top_overlap),
    }


def spearman(x: Array, y: Array) -> float:
    """Rank correlation of two vectors of shape [candidate]; NaN where one is constant."""
    return _pearson(_ranks(x), _ranks(y))


def _ranks(values: Array) -> Array:
    """Ranks from 1, ties sharing their mean, shape [candidate].

    ``scipy.stats.rankdata`` gives the same in six times the time for a few dozen values, and a
    bootstrap asks two thousand times.
    """
    order = values.argsort()
    ordered = values[order]
    first = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    edges = np.append(np.flatnonzero(first), len(values))
    ranks = np.empty(len(values))
    ranks[order] = ((edges[:-1] + edges[1:] + 1) / 2)[first.cumsum() - 1]
    return ranks


def _pearson(x: Array, y: Array) -> float:
    a, b = x - x.mean(), y - y.mean()
    norm = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / norm if norm else math.nan


def kendall(x: Array, y: Array) -> float:
    """Tau-b of two vectors of shape [candidate]; NaN where one is constant."""
    if not (np.ptp(x) and np.ptp(y)):
        return math.nan
    # Only the p-value depends on the method, and its asymptotic form divides by zero for two items.
    method = "asymptotic" if len(x) > 2 else "exact"
    from scipy import stats

    tau: Any = stats.kendalltau(x, y, method=method)  # the stubs type it as a bare tuple
    return float(tau.statistic)


def _same_sign(x: Array, y: Array) -> float:
    return float(np.mean(np.sign(x) == np.sign(y)))


def _same_sign_centred(x: Array, y: Array) -> float:
    if not (np.ptp(x) and np.ptp(y)):
        return math.nan
    return _same_sign(x - x.mean(), y - y.mean())


def _undefined(_x: Array, _y: Array) -> float:
    return math.nan


def top_overlap(x: Array, y: Array) -> float:
    """Share of the best quarter by ``x`` in the best quarter by ``y``, shapes [candidate]."""
    count = max(1, len(x) // 4)
    return float(_top_weights(x, count) @ _top_weights(y, count)) / count


def _top_weights(x: Array, count: int) -> Array:
    """Chance of each to be among the ``count`` largest when ties are broken at random."""
    threshold = np.partition(x, -count)[-count]
    tied = x == threshold
    above = x > threshold
    return above + tied * (count - above.sum()) / tied.sum()


def _within(
    function: Callable[[Array, Array], float], x: Array, y: Array, clusters: Sequence[np.ndarray]
) -> Metric:
    values = np.full(len(clusters), np.nan)
    if len(y) and np.ptp(y):
        for number, rows in enumerate(clusters):
            if len(rows) > 1 and np.ptp(x[rows]):
                values[number] = function(x[rows], y[rows]) if np.ptp(y[rows]) else 0.0
    counts = ~np.isnan(values)
    return _ratio(np.where(counts, values, 0.0), counts.astype(np.float64))


def _ordered_alike(y: Array, pairs: Sequence[Sequence[tuple[int, int]]]) -> Metric:
    right = [sum(0.5 * (1 + np.sign(y[best] - y[worst])) for best, worst in p) for p in pairs]
    return _ratio(np.array(right, dtype=np.float64), np.array([len(p) for p in pairs]))


def _ratio(part: Array, total: np.ndarray) -> Metric:
    def statistic(drawn: np.ndarray) -> float:
        whole = float(total[drawn].sum())
        return float(part[drawn].sum()) / whole if whole else math.nan

    return Metric(statistic, int(total.sum()))


def _extremes(x: Array, rows: np.ndarray) -> list[tuple[int, int]]:
    best, worst = rows[np.argmax(x[rows])], rows[np.argmin(x[rows])]
    return [(int(best), int(worst))] if x[best] > x[worst] else []


def _separated(oracle: Sequence[Score], rows: np.ndarray) -> list[tuple[int, int]]:
    pairs = []
    for i in rows:
        for j in rows:
            gap = oracle[i].value - oracle[j].value
            if gap > 0:
                stderr = difference_stderr(oracle[i], oracle[j])
                if stderr is not None and gap > MARGIN_STDERRS * stderr:
                    pairs.append((int(i), int(j)))
    return pairs


def difference_stderr(a: Score, b: Score) -> float | None:
    """Standard error of ``a.value - b.value``, unit of the scores; None where it is not known.

    With values per reference item it is that of the paired difference: both candidates are judged
    on the same items, so what the items share cancels. Otherwise the two errors add in quadrature.
    """
    if a.per_reference and b.per_reference and len(a.per_reference) > 1:
        gaps = [x - y for x, y in zip(a.per_reference, b.per_reference, strict=True)]
        mean = math.fsum(gaps) / len(gaps)
        variance = math.fsum((gap - mean) ** 2 for gap in gaps) / (len(gaps) - 1)
        return math.sqrt(variance / len(gaps))
    if a.stderr is not None and b.stderr is not None:
        return math.hypot(a.stderr, b.stderr)
    return None
