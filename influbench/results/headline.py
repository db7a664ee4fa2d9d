"""The headline numbers of a study: one row a label and metric, put together over seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import pandas as pd

from influbench.statistics.seeds import over_seeds


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
