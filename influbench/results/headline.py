"""The headline numbers of a study: seeds put together, one row a label and metric.

A label is an estimator, or an estimator and its place on the axes in which its numbers differ:
agreement does not depend on a rule that makes pairs, so ``trak`` has one agreement for both rules
and a win rate for each.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from influbench.results.axes import telling
from influbench.results.metrics import UNSTEADY, range_of
from influbench.statistics.estimate import Estimate
from influbench.statistics.seeds import over_seeds

Row = Mapping[str, Any]


def headline(rows: pd.DataFrame, axes: Sequence[str] = ()) -> pd.DataFrame:
    """The numbers of each label's last round, put together over seeds (``statistics.seeds``).

    Different settings are never averaged: where the axes do not tell two values of one estimator,
    metric and seed apart, the run does.

    Args:
        rows: ``Study.rows``.
        axes: ``Study.axes``.

    Returns:
        Columns label, estimator, one an axis (None where it makes no difference to the estimator),
        metric, value, low, high, stderr, n (largest over seeds), seeds, unit.
    """
    columns = ["label", "estimator", *axes, "metric", "value", "low", "high", "stderr", "n"]
    table: list[tuple[Any, ...]] = []
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows.to_dict("records"):
        found[str(row["estimator"])].append(row)
    for estimator, own in found.items():
        steady = [row for row in own if not UNSTEADY.fullmatch(str(row["metric"]))]
        used = telling(
            [((row["metric"], row["round"], row["seed"]), row, row["value"]) for row in steady],
            axes,
        )
        cells: dict[tuple[Any, ...], dict[tuple[int, int], Row]] = {}
        for row in own:
            key = (tuple(row[axis] for axis in used), row["metric"])
            # Runs of one study share stages: the same number may stand in several of them.
            cells.setdefault(key, {}).setdefault((row["round"], row["seed"]), row)
        for (place, metric), several in cells.items():
            newest = max(number for number, _ in several)
            last = [row for (number, _), row in several.items() if number == newest]
            unit = str(last[0]["unit"])
            mean = over_seeds([_estimate(row) for row in last], range_of(str(metric), unit))
            where = dict(zip(used, place, strict=True))
            table.append(
                (
                    label_of(estimator, where),
                    estimator,
                    *(where.get(axis) for axis in axes),
                    metric,
                    mean.value,
                    *mean.bounds,
                    mean.stderr,
                    mean.n,
                    len(last),
                    unit,
                )
            )
    return framed([*columns, "seeds", "unit"], table, axes)


def framed(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], axes: Sequence[str] = ()
) -> pd.DataFrame:
    """A frame whose axis columns keep None (no difference) and whose bounds are floats (NaN)."""
    frame = pd.DataFrame([list(row) for row in rows], columns=list(columns), dtype=object)
    kinds = frame.drop(columns=list(axes)).infer_objects()
    frame = frame.assign(**{name: kinds[name] for name in kinds.columns})
    bounds = [name for name in ("low", "high", "stderr") if name in frame]
    return frame.astype(dict.fromkeys(bounds, float))


def label_of(estimator: str, place: Mapping[str, Any]) -> str:
    """An estimator and its place on the axes that change it: ``trak``, ``trak (margin, 3)``."""
    return f"{estimator} ({', '.join(map(str, place.values()))})" if place else estimator


def _estimate(row: Row) -> Estimate:
    def known(number: Any) -> float | None:
        return None if number is None or number != number else float(number)

    return Estimate(
        value=float(row["value"]),
        low=known(row["low"]),
        high=known(row["high"]),
        stderr=known(row.get("stderr")),
        n=int(row["n"]),
        unit=str(row["unit"]),
    )
