"""What the figures read out of a study's frames."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from influbench.results import Study
from influbench.statistics.estimate import Estimate

Row = Mapping[str, Any]
MIDWAY = re.compile(r"midway/([\d.]+)/(\w+)")
"""A number of an arm whose teacher had done a share of its DPO steps: ``midway/0.5/win_rate``."""
KEEPING = "influbench sweep STUDY.yaml --set keep_checkpoints=4"
"""What records such numbers."""


def headline(study: Study, metric: str) -> list[Row]:
    """The rows of ``study.estimates`` of one metric, by label."""
    found = [row for row in study.estimates.to_dict("records") if row["metric"] == metric]
    return sorted(found, key=lambda row: str(row["label"]))


def estimate(row: Row) -> Estimate:
    """A row as a number with its interval."""
    low, high = (None if math.isnan(row[end]) else float(row[end]) for end in ("low", "high"))
    return Estimate(
        value=float(row["value"]), low=low, high=high, n=int(row["n"]), unit=str(row["unit"])
    )


def parted(text: str, mark: str) -> tuple[str, float] | None:
    """Name and number of ``NAME<mark>NUMBER``; None where it is nothing of the kind."""
    name, _, number = text.rpartition(mark)
    try:
        return (name, float(number)) if name else None
    except ValueError:
        return None


def scores_by_seed(study: Study) -> dict[int, dict[str, dict[str, float]]]:
    """Seed, estimator, candidate id -> score; of the first run of each seed that has it."""
    found: dict[int, dict[str, dict[str, float]]] = {}
    first: dict[tuple[int, str], str] = {}
    frame = study.scores
    columns = (frame[name] for name in ("seed", "estimator", "run", "id", "value"))
    for seed, estimator, run, item, value in zip(*columns, strict=True):
        if first.setdefault((seed, estimator), run) == run:
            found.setdefault(int(seed), {}).setdefault(str(estimator), {})[item] = float(value)
    return found


def outcomes_by_arm(study: Study, metric: re.Pattern[str]) -> dict[str, dict[int, list[Row]]]:
    """Arm, seed -> the outcomes whose metric matches; of the first run of each seed that has them.

    Runs of a study share students: that of the untaught teacher stands in each of their files.
    """
    found: dict[str, dict[int, list[Row]]] = {}
    first: dict[tuple[str, int], str] = {}
    for row in study.outcomes.to_dict("records"):
        arm, seed = str(row["estimator"]), int(row["seed"])
        if not metric.fullmatch(str(row["metric"])):
            continue
        if first.setdefault((arm, seed), str(row["run"])) == row["run"]:
            found.setdefault(arm, {}).setdefault(seed, []).append(row)
    return dict(sorted(found.items()))


def groups_of(study: Study) -> dict[str, str]:
    """Candidate id to the seed prompt whose siblings compete; the id itself where there is none."""
    columns = zip(study.scores["id"], study.scores["group"], strict=True)
    return {item: group or item for item, group in columns}


def clusters(items: Sequence[str], groups: Mapping[str, str]) -> list[np.ndarray]:
    """Positions of the candidates of each group: what a bootstrap draws."""
    found: dict[str, list[int]] = {}
    for place, item in enumerate(items):
        found.setdefault(groups.get(item, item), []).append(place)
    return [np.array(places) for places in found.values()]


def bins_for(count: int, most: int) -> int:
    """Bars of a histogram of so many numbers: about two a square root."""
    return max(2, min(most, round(2 * math.sqrt(count))))


def counts(rows: Iterable[Row]) -> str:
    """``n = 24`` or ``n = 24-128``, for captions."""
    found = sorted({int(row["n"]) for row in rows})
    if not found:
        return "n = 0"
    return f"n = {found[0]}" if len(found) == 1 else f"n = {found[0]}-{found[-1]}"
