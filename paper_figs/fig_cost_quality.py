"""Quality against cost: which way of measuring influence is worth its price.

Left: agreement with the exact influence; right, where students were evaluated: their win rate. Both
against measured seconds per candidate. Reads ``results/<study>`` and nothing else:

    python paper_figs/fig_cost_quality.py results/quickstart --out figures
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from influbench.results import BASELINE, CEILING, Study
from paper_figs.drawing import MARKERS, QUIET, caption, command, interval, nothing, page, save

ORACLE = "exact"
NAME = "fig_cost_quality"
DIRECT = 14
"""Points of a panel above which names stand in a legend."""
TITLES = {
    "spearman": "Spearman correlation with exact",
    "kendall": "Kendall's tau-b with exact",
    "spearman_within": "Spearman correlation with exact, within a seed prompt",
    "pair_precision": "pairs ordered as by exact (share)",
    "win_rate": "win rate of the student (%)",
}


Row = dict[str, Any]
"""One row of ``headline``: value, low, high, n, seeds, unit."""
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


def draw(study: Study, out: Path, agreement: str = "spearman") -> list[Path]:
    """Draws the figure and writes ``fig_cost_quality.pdf`` and ``.png``.

    Args:
        study: with ``seconds_per_candidate`` and an agreement metric or ``win_rate``.
        out: folder of the two files; made where it is missing.
        agreement: the metric of the left panel.

    Raises:
        UserError: the study holds nothing to draw.
    """
    numbers: Numbers = {}
    rows: list[Row] = study.estimates.to_dict("records")  # type: ignore[assignment]
    for row in rows:
        numbers.setdefault(row["label"], {})[row["metric"]] = row
    with page(7.0, 2.9) as figure:
        methods = _methods(numbers)
        metrics = [
            metric
            for metric in (agreement, "win_rate")
            if any(metric in method.numbers for method in methods)
        ]
        if not metrics:
            wanted = f"estimators with seconds_per_candidate and {agreement} or win_rate"
            raise nothing(study, wanted, "influbench sweep")
        points = {metric: _points(methods, metric, metric == agreement) for metric in metrics}
        crowded = max(map(len, points.values())) > DIRECT
        width = 3.5 * len(metrics)
        figure.set_size_inches(*((width + 1.2, 3.6) if crowded else (width, 2.9)))
        panels = figure.subplots(1, len(metrics), squeeze=False)[0]
        for axes, metric in zip(panels, metrics, strict=True):
            _panel(axes, metric, points[metric], numbers, is_agreement=metric == agreement)
        if crowded:
            _legend(figure, [point for found in points.values() for point in found])
        else:
            for axes, metric in zip(panels, metrics, strict=True):
                _separate([_named(axes, point) for point in points[metric]])
        text = caption(study, "tail: with the preparation shared among the candidates scored")
        return save(figure, out, NAME, text)


def _methods(numbers: Numbers) -> list[Method]:
    colours = cycle(matplotlib.rcParams["axes.prop_cycle"].by_key()["color"])
    markers = cycle(MARKERS)
    methods = []
    for label in sorted(numbers):
        found = numbers[label]
        cost = found.get("seconds_per_candidate")
        if cost is None or cost["value"] <= 0:  # no place on a logarithmic axis
            continue
        once = found["prepare_seconds"]["value"] if "prepare_seconds" in found else 0.0
        methods.append(
            Method(
                label=label,
                estimator=cost["estimator"],
                seconds=cost["value"],
                with_preparation=cost["value"] + once / max(cost["n"], 1),
                colour=next(colours),
                marker=next(markers),
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


def _panel(
    axes: Axes, metric: str, points: list[Point], numbers: Numbers, *, is_agreement: bool
) -> None:
    axes.set_xscale("log")
    axes.set_xlabel("seconds per candidate (tail: + preparation)")
    axes.set_ylabel(TITLES.get(metric, metric))
    label, name = (
        (CEILING, "exact,\nhalf vs\nhalf") if is_agreement else (BASELINE, "teacher\nnot\ntaught")
    )
    for point in points:
        _mark(axes, point)
    axes.margins(x=0.12, y=0.1)
    left, right = axes.get_xlim()
    axes.set_xlim(left, right * (right / left) ** 0.18)  # room for the labels of the dearest
    if metric in numbers.get(label, {}):
        _level(axes, numbers[label][metric], name)
    if is_agreement and axes.get_ylim()[0] <= 0:
        axes.axhline(0, color="0.6", linewidth=0.6, zorder=1)


def _mark(axes: Axes, point: Point) -> None:
    method, colour = point.method, point.method.colour
    axes.hlines(point.y, method.seconds, method.with_preparation, color=colour, linewidth=0.7)
    interval(axes, method.seconds, point.low, point.high, colour)
    axes.plot(
        method.seconds,
        point.y,
        marker=method.marker,
        color=colour,
        markerfacecolor="white" if point.by_definition else colour,
        linestyle="none",
        zorder=3,
        label=point.name,
    )


def _named(axes: Axes, point: Point) -> Annotation:
    return axes.annotate(
        point.name,
        (point.method.with_preparation, point.y),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        fontsize=7,
        color=point.method.colour,
        zorder=4,
        path_effects=[withStroke(linewidth=1.5, foreground="white")],
    )


def _legend(figure: Figure, points: list[Point]) -> None:
    """Names beside the panels: so many labels would cover one another and the points."""
    handles: dict[str, Artist] = {}
    for axes in figure.axes:
        for line in axes.lines:
            if line.get_label() in {point.name for point in points}:
                handles.setdefault(str(line.get_label()), line)
    names = sorted(handles)
    columns = 1 if len(names) <= 24 else 2
    figure.legend(
        [handles[name] for name in names],
        names,
        ncols=columns,
        loc="outside right upper",
        fontsize=6,
    )


def _level(axes: Axes, number: Row, name: str) -> None:
    """A horizontal line with its interval, for what has no cost per candidate."""
    axes.axhline(number["value"], color=QUIET, linestyle="--", linewidth=0.8, zorder=1)
    if not math.isnan(number["low"]):
        axes.axhspan(number["low"], number["high"], color="0.5", alpha=0.12, linewidth=0, zorder=0)
    axes.text(
        1.01,
        number["value"],
        name,
        transform=axes.get_yaxis_transform(),
        ha="left",
        va="center",
        fontsize=6.5,
        color=QUIET,
    )


def _separate(labels: list[Annotation]) -> None:
    """Moves labels up until none covers another; sizes are known only after a layout."""
    if not labels:
        return
    figure = labels[0].get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    placed: list[Bbox] = []
    for label in sorted(labels, key=lambda text: text.xy[1]):
        box = label.get_window_extent()
        start = box.y0
        while overlap := [other for other in placed if box.overlaps(other)]:
            box = box.translated(0, max(other.y1 for other in overlap) - box.y0 + 0.5)
        label.set_position((5, (box.y0 - start) * 72 / figure.dpi))
        placed.append(box)


if __name__ == "__main__":
    sys.exit(command(draw, "Quality against cost, as PDF and PNG."))
