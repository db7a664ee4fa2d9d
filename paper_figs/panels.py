"""What the figure of quality against cost shows: methods as points, in panels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import cycle

import matplotlib
import pandas as pd

from influbench.results import BASELINE, CEILING, Study
from influbench.results.headline import headline
from paper_figs.drawing import MARKERS
from paper_figs.records import Row

ORACLE = "exact"
DIRECT = 24
"""Points of a panel above which names stand in a legend."""
Numbers = dict[str, dict[str, Row]]
"""By label, then metric."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """One estimator in the figure: its cost, its look, its numbers by metric."""

    label: str
    estimator: str
    seconds: float
    """Per candidate, preparation not included."""
    with_preparation: float
    """Per candidate, preparation shared among the candidates that were scored."""
    colour: str
    marker: str
    numbers: dict[str, Row]
    """By metric."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """What is drawn of a method in one panel."""

    name: str
    method: Method
    y: float
    low: float
    high: float
    by_definition: bool
    """The oracle's agreement with itself: drawn hollow, since nothing was measured."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """What is drawn in one."""

    metric: str
    place: str
    """Of the study's axes; empty where all places stand together."""
    points: list[Point]
    level: Row | None
    """A number without a cost: agreement of half the references, the student not taught."""
    is_agreement: bool


def panels_of(study: Study, agreement: str) -> list[Panel]:
    """One a metric; where that would be a crowd, one a metric and place on the study's axes."""
    together = _one_a_metric({"": _by("label", study.estimates)}, agreement)
    if max((len(panel.points) for panel in together), default=0) <= DIRECT or not study.axes:
        return together
    at = study.rows[list(study.axes)].astype(str).agg(", ".join, axis="columns")
    # Costs too are those of the place; put together, they are those of the first.
    places = {one: _by("estimator", headline(study.rows.loc[at == one])) for one in sorted(set(at))}
    return _one_a_metric(places, agreement)


def _by(name: str, rows: pd.DataFrame) -> Numbers:
    numbers: Numbers = {}
    for row in rows.to_dict("records"):
        numbers.setdefault(row[name], {})[row["metric"]] = row
    return numbers


def _one_a_metric(places: Mapping[str, Numbers], agreement: str) -> list[Panel]:
    names = sorted({name for numbers in places.values() for name in numbers})
    colours = cycle(matplotlib.rcParams["axes.prop_cycle"].by_key()["color"])
    looks = dict(zip(names, zip(colours, cycle(MARKERS), strict=False), strict=False))
    found: list[Panel] = []
    for place, numbers in places.items():
        methods = _methods(numbers, looks)
        for metric in (agreement, "win_rate"):
            if any(metric in method.numbers for method in methods):
                points = _points(methods, metric, metric == agreement)
                is_agreement = metric == agreement
                level = numbers.get(CEILING if is_agreement else BASELINE, {}).get(metric)
                found.append(
                    Panel(
                        metric=metric,
                        place=place,
                        points=points,
                        level=level,
                        is_agreement=is_agreement,
                    )
                )
    return found


def _methods(numbers: Numbers, looks: Mapping[str, tuple[str, str]]) -> list[Method]:
    methods = []
    for label in sorted(numbers):
        found = numbers[label]
        cost = found.get("seconds_per_candidate")
        if cost is None or cost["value"] <= 0:  # no place on a logarithmic axis
            continue
        once = found["prepare_seconds"]["value"] if "prepare_seconds" in found else 0.0
        colour, marker = looks[label]
        methods.append(
            Method(
                label=label,
                estimator=cost["estimator"],
                seconds=cost["value"],
                with_preparation=cost["value"] + once / max(cost["n"], 1),
                colour=colour,
                marker=marker,
                numbers=found,
            )
        )
    return methods


def _points(methods: list[Method], metric: str, is_agreement: bool) -> list[Point]:
    """One point a method; one for all of an estimator's where the axes do not change the number."""
    found: dict[tuple[str, float], Point] = {}
    for method in methods:
        number = method.numbers.get(metric)
        oracle = is_agreement and method.estimator == ORACLE
        if number is None and not oracle:
            continue
        numbers = (1.0, math.nan, math.nan) if number is None else _bounds(number)
        y, low, high = numbers
        point = Point(
            name=method.label, method=method, y=y, low=low, high=high, by_definition=number is None
        )
        if found.setdefault((method.estimator, y), point) is not point:
            found[method.estimator, y] = replace(point, name=method.estimator)
    return list(found.values())


def _bounds(number: Row) -> tuple[float, float, float]:
    return number["value"], number["low"], number["high"]
