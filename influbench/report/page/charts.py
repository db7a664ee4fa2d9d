"""What the page's two charts show: quality against cost, and how far estimators agree."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from influbench.report.page.candidates import CandidateSet
from influbench.results import BASE, BASELINE, CEILING

COST = "seconds_per_candidate"
QUALITY: dict[str, tuple[str, int]] = {
    "spearman": ("Spearman correlation with exact", 1),
    "spearman_within": ("Spearman correlation with exact, among siblings", 1),
    "pair_precision": ("best-and-worst pairs ordered as by exact (share)", 1),
    "auc": ("planted good told from bad (area under the curve)", 1),
    "gain_correlation": ("correlation with what training on the data gains", 1),
    "win_rate": ("win rate of the student (%)", 1),
    "grade": ("grade of the student (1-10)", 1),
    "heldout_loss": ("held-out loss of the student (nats/token)", -1),
}
"""Metric -> its name in words, and whether more (1) or less (-1) is better."""
NO_METHOD = {BASE, BASELINE, CEILING}

Point = dict[str, Any]


def points(numbers: pd.DataFrame, metric: str) -> list[Point]:
    """Each method's cost and quality, cheapest first, with ``front``: nothing cheaper is as good.

    Args:
        numbers: columns estimator, metric, value, low, high, and perhaps label.
        metric: one of ``QUALITY``.
    """
    rows: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in numbers.to_dict("records"):
        if row["estimator"] not in NO_METHOD:
            rows.setdefault(row.get("label", row["estimator"]), {})[str(row["metric"])] = row
    found: list[Point] = [
        {
            "label": label,
            "cost": own[COST]["value"],
            **{name: _number(own[metric][name]) for name in ("value", "low", "high")},
        }
        for label, own in rows.items()
        if COST in own and metric in own and own[COST]["value"] > 0
    ]
    found.sort(key=lambda point: (point["cost"], point["label"]))
    best, better = -math.inf, QUALITY[metric][1]
    for point in found:
        point["front"] = better * point["value"] > best
        best = max(best, better * point["value"])
    return found


def cost_quality(numbers: pd.DataFrame) -> list[dict[str, Any]]:
    """One entry a metric that two methods or more have beside their cost."""
    return [
        {"metric": metric, "title": title, "points": found}
        for metric, (title, _) in QUALITY.items()
        if len(found := points(numbers, metric)) > 1
    ]


def agreement(own: CandidateSet) -> dict[str, Any] | None:
    """Spearman's correlation between all methods of a set.

    None with fewer than two of them, or of candidates.

    A method that gives every candidate the same score has none (null).
    """
    names = sorted(own.scores)
    if len(names) < 2 or len(own.ids) < 2:
        return None
    columns = [_column(own.ids, own.scores[name]) for name in names]
    ranks = np.array([stats.rankdata(column) for column in columns])  # [method, candidate]
    constant = np.ptp(ranks, axis=1) == 0
    with np.errstate(invalid="ignore", divide="ignore"):
        table = np.corrcoef(ranks)
    table[constant, :] = table[:, constant] = math.nan
    order = _alike_together(table)
    return {
        "title": own.name,
        "names": [names[i] for i in order],
        "values": [[_number(round(float(table[i, j]), 3)) for j in order] for i in order],
        "count": len(own.ids),
    }


def _alike_together(table: np.ndarray) -> Sequence[int]:
    """An order in which methods that agree are neighbours: each next one is the last one's best."""
    near = np.nan_to_num(table, nan=-2.0)
    order = [int(np.argmax(near.sum(axis=1)))]
    left = set(range(len(table))) - set(order)
    while left:
        order.append(max(sorted(left), key=lambda i: near[order[-1], i]))
        left.remove(order[-1])
    return order


def _column(ids: Sequence[str], scores: Sequence[Any]) -> list[float]:
    by_id = {score.id: score.value for score in scores}
    return [by_id[name] for name in ids]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
