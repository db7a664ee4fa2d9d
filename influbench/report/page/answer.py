"""What a study says, in sentences with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from influbench.report.cells import costly
from influbench.report.comparison import NOISE
from influbench.report.notes import base_verdict
from influbench.report.page.charts import NO_METHOD, QUALITY, Point, points
from influbench.results import Study
from influbench.results.differences import differences
from influbench.statistics.seeds import ENOUGH

ORACLE = "exact"
CHANCE = {"pair_precision": 0.5, "auc": 0.5}
"""What a method gets that knows nothing, where that is not 0."""
FEW = 6
"""Names in a sentence; the table below it holds all."""


@dataclass(frozen=True)
class Sentence:
    """One finding."""

    text: str
    tone: Literal["plain", "good", "warning"] = "plain"


def of_study(study: Study) -> list[Sentence]:
    """Whether training helped at all, who agrees with what, who is worth it, which student won."""
    found: list[Sentence] = []
    verdict = base_verdict(study)
    if verdict is not None:
        found.append(Sentence(verdict[1], "good" if verdict[0] else "warning"))
    found += of_methods(study.estimates)
    found += _students(differences(study))
    return found or [
        Sentence("This study measured no quality that methods are ranked by; its numbers are below")
    ]


def of_methods(numbers: pd.DataFrame) -> list[Sentence]:
    """The best by the first quality that was measured, and what is worth its price.

    Args:
        numbers: see :func:`charts.points`.
    """
    scoring = [name for name in QUALITY if name not in ("win_rate", "grade", "heldout_loss")]
    measured = set(numbers["metric"])
    metric = next((name for name in scoring if name in measured), None)
    if metric is None:
        return []
    rows = [row for row in numbers.to_dict("records") if row["metric"] == metric]
    rows = [row for row in rows if row["estimator"] not in {*NO_METHOD, NOISE} and _measured(row)]
    rows.sort(key=lambda row: -row["value"])
    if not rows:
        return []
    name = QUALITY[metric][0]
    best = rows[0]
    close = [row for row in rows[1:] if row["high"] >= best["low"]]
    text = f"Of {len(rows)} methods {_label(best)} is first by {name}: {_interval(best)}"
    if close:
        text += f"; the intervals of {_named([_label(row) for row in close])} overlap with its own"
    if not best["low"] > CHANCE.get(metric, 0.0):
        text += "; chance is not ruled out, so no method is shown to know anything"
    return [Sentence(text + "."), *_worth(points(numbers, metric), metric)]


def _worth(found: Sequence[Point], metric: str) -> list[Sentence]:
    """Methods that no cheaper one matches, without those that do no better than chance."""
    name, chance = QUALITY[metric][0], CHANCE.get(metric, 0.0)
    front = [p for p in found if p["front"] and p["value"] > chance and p["label"] != ORACLE]
    if len(found) < 3 or not front:
        return []
    parts = [f"{p['label']} ({costly(p['cost'])} s, {p['value']:.2f})" for p in front[-FEW:]]
    left = f" {len(front) - FEW} cheaper ones are in the figure." if len(front) > FEW else ""
    return [
        Sentence(
            "Nothing cheaper does as well (seconds per candidate without the preparation; "
            f"{name}): {', '.join(parts)}.{left}"
        )
    ]


def _students(found: pd.DataFrame) -> list[Sentence]:
    sentences: list[Sentence] = []
    for metric, part in found.groupby("metric", sort=False):
        rows: list[dict[str, Any]] = part.to_dict("records")
        control = rows[0]["against"]
        words = QUALITY[str(metric)][0] if metric in QUALITY else str(metric)
        steady = [row for row in rows if row["seeds"] >= ENOUGH]
        if not steady:
            most = max(row["seeds"] for row in rows)
            there = f"there {'is' if most == 1 else 'are'} {most}"
            sentences.append(
                Sentence(
                    f"By {words} no arm can be told from {control} yet: it takes {ENOUGH} seeds, "
                    f"{there}."
                )
            )
            continue
        sure = [row for row in steady if row["low"] > 0 or row["high"] < 0]
        if not sure:
            sentences.append(
                Sentence(
                    f"By {words} none of {len(steady)} arms differs from {control}: every "
                    "interval over seeds holds 0."
                )
            )
        sentences += [_difference(row, words, QUALITY[str(metric)][1]) for row in sure]
    return sentences


def _difference(row: dict[str, Any], words: str, better: int) -> Sentence:
    # Told with its sign and unit, since more is better by one metric and worse by another.
    return Sentence(
        f"By {words} {row['label']} minus {row['against']} is {_interval(row)} {row['unit']} over "
        f"{row['seeds']} seeds and {row['prompts']} prompts.",
        "good" if row["value"] * better > 0 else "warning",
    )


def _measured(row: dict[str, Any]) -> bool:
    """Whether a number is no agreement of something with itself, which is 1 by definition."""
    return row["value"] != 1 or row["low"] == row["low"]


def _label(row: dict[str, Any]) -> str:
    return str(row.get("label", row["estimator"]))


def _interval(row: dict[str, Any]) -> str:
    known = row["low"] == row["low"] and row["high"] == row["high"]
    bounds = f" [{row['low']:.3g}, {row['high']:.3g}]" if known else " (no interval)"
    return f"{row['value']:.3g}{bounds}"


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return ", ".join(names[:FEW]) + more
