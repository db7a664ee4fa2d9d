"""Quality against cost: which way of measuring influence is worth its price.

Left: agreement with the exact influence; right, where students were evaluated: their win rate. Both
against measured seconds per candidate. Reads ``results/<study>`` and nothing else:

    python paper_figs/fig_cost_quality.py results/quickstart --out figures
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from influbench.results import BASELINE, CEILING, Study
from paper_figs import labels
from paper_figs.drawing import MARKERS, QUIET, caption, command, interval, nothing, page, save
from paper_figs.records import counts

ORACLE = "exact"
NAME = "fig_cost_quality"
DIRECT = 24
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
    rows: list[Row] = study.estimates.to_dict("records")
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
        wide = 4.4 if max(map(len, points.values())) > 12 else 3.5
        figure.set_size_inches(wide * len(metrics), 3.3)
        panels = figure.subplots(1, len(metrics), squeeze=False)[0]
        for axes, metric in zip(panels, metrics, strict=True):
            _panel(axes, metric, points[metric], numbers, is_agreement=metric == agreement)
        if crowded or not all(
            _named(axes, points[metric]) for axes, metric in zip(panels, metrics, strict=True)
        ):
            figure.set_size_inches(3.6 * len(metrics) + 1.2, 3.6)
            _legend(figure, [point for found in points.values() for point in found])
        drawn = [
            numbers[p.method.label][m] for m in metrics for p in points[m] if not p.by_definition
        ]
        text = caption(
            study,
            counts(drawn),
            "tail: with the preparation shared among the candidates scored",
            "grey steps: nothing measured is both cheaper and better (Pareto front)",
            "hollow: agreement of the oracle with itself, 1 by definition",
        )
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
    title = TITLES.get(metric, metric)
    own = any(point.method.estimator == ORACLE for point in points)
    axes.set_ylabel(title if own else title.replace("with exact", "with the oracle"))
    label, name = (
        (CEILING, "exact,\nhalf vs\nhalf") if is_agreement else (BASELINE, "teacher\nnot\ntaught")
    )
    for point in points:
        _mark(axes, point)
    _front(axes, points)
    ends = [x for p in points for x in (p.method.seconds, p.method.with_preparation)]
    reach = (max(ends) / min(ends)) ** 0.08 + 0.2
    axes.set_xlim(min(ends) / reach, max(ends) * reach)
    axes.xaxis.set_minor_formatter(NullFormatter())
    if max(ends) / min(ends) < 30:  # powers of ten alone would be one or none
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
    low, high = axes.get_ylim()
    ticks = [tick for tick in axes.get_yticks() if low <= tick <= high]
    axes.set_yticks([tick for tick in ticks if not (is_agreement and abs(tick) > 1)])
    axes.set_ylim(low - 0.08 * (high - low), high + 0.08 * (high - low))
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
        markersize=4.5,
        markerfacecolor="white" if point.by_definition else colour,
        linestyle="none",
        zorder=3,
        label=point.name,
    )


def _best(points: list[Point]) -> list[Point]:
    """The measured points that no other beats in cost and quality (Pareto), cheapest first."""
    best: list[Point] = []
    measured = [point for point in points if not point.by_definition]
    for point in sorted(measured, key=lambda p: (p.method.seconds, -p.y)):
        if not best or point.y > best[-1].y:
            best.append(point)
    return best


def _front(axes: Axes, points: list[Point]) -> None:
    best = _best(points)
    x, y = [point.method.seconds for point in best], [point.y for point in best]
    axes.step(x, y, where="post", color="0.75", linewidth=0.7, zorder=0.5, gid="front")


def _named(axes: Axes, points: list[Point]) -> bool:
    """Whether the names found room beside their points."""
    names = [
        labels.Label(text=p.name, x=p.method.seconds, y=p.y, colour=p.method.colour) for p in points
    ]
    drawn: list[labels.Segment] = []
    for point in points:
        here = (point.method.seconds, point.y)
        drawn += [(here, here), (here, (point.method.with_preparation, point.y))]
        if not math.isnan(point.low):
            drawn.append(((here[0], point.low), (here[0], point.high)))
    for one, other in pairwise(_best(points)):
        corner = (other.method.seconds, one.y)
        drawn += [((one.method.seconds, one.y), corner), (corner, (corner[0], other.y))]
    return labels.place(axes, names, drawn)


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


if __name__ == "__main__":
    sys.exit(command(draw, "Quality against cost, as PDF and PNG."))
