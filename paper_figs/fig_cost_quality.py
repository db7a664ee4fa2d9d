"""Quality against cost: which way of measuring influence is worth its price.

Left: agreement with the exact influence; right, where students were evaluated: their win rate. Both
against measured seconds per candidate. Reads ``results/<study>`` and nothing else:

    python paper_figs/fig_cost_quality.py results/quickstart --out figures
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from influbench.errors import UserError
from influbench.results import BASELINE, CEILING, Study
from influbench.results.headline import headline
from paper_figs.drawing import STYLE, command, save

ORACLE = "exact"
NAME = "fig_cost_quality"
MARKERS = "osD^vP*X<>hp"
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
    is_oracle: bool
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
    rows: list[Row] = headline(study.estimates).to_dict("records")  # type: ignore[assignment]
    for row in rows:
        numbers.setdefault(row["label"], {})[row["metric"]] = row
    with matplotlib.rc_context(fname=str(STYLE)):
        methods = _methods(numbers)
        metrics = [
            metric
            for metric in (agreement, "win_rate")
            if any(metric in method.numbers for method in methods)
        ]
        if not metrics:
            raise UserError(
                f"expected estimators with seconds_per_candidate and {agreement} or win_rate in "
                f"study '{study.name}' ({study.path}), got none: run or sweep it first"
            )
        figure = Figure(figsize=(3.5 * len(metrics), 2.9))
        FigureCanvasAgg(figure)
        panels = figure.subplots(1, len(metrics), squeeze=False)[0]
        for axes, metric in zip(panels, metrics, strict=True):
            _panel(axes, metric, methods, numbers, is_agreement=metric == agreement)
        figure.supxlabel(_footer(study, rows), fontsize=6, color="0.35", x=0.01, ha="left")
        for axes in panels:
            _separate([text for text in axes.texts if isinstance(text, Annotation)])
        return save(figure, out, NAME)


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
                is_oracle=cost["estimator"] == ORACLE,
                seconds=cost["value"],
                with_preparation=cost["value"] + once / max(cost["n"], 1),
                colour=next(colours),
                marker=next(markers),
                numbers=found,
            )
        )
    return methods


def _panel(
    axes: Axes, metric: str, methods: list[Method], numbers: Numbers, *, is_agreement: bool
) -> None:
    axes.set_xscale("log")
    axes.set_xlabel("seconds per candidate (tail: + preparation)")
    axes.set_ylabel(TITLES.get(metric, metric))
    label, name = (
        (CEILING, "exact,\nhalf vs\nhalf") if is_agreement else (BASELINE, "teacher\nnot\ntaught")
    )
    for method in methods:
        if (point := _point(method, metric, is_agreement)) is not None:
            _mark(axes, method, point)
    axes.margins(x=0.12, y=0.1)
    left, right = axes.get_xlim()
    axes.set_xlim(left, right * (right / left) ** 0.18)  # room for the labels of the dearest
    if metric in numbers.get(label, {}):
        _level(axes, numbers[label][metric], name)
    if is_agreement and axes.get_ylim()[0] <= 0:
        axes.axhline(0, color="0.6", linewidth=0.6, zorder=1)


def _point(method: Method, metric: str, is_agreement: bool) -> Point | None:
    number = method.numbers.get(metric)
    if number is not None:
        return Point(y=number["value"], low=number["low"], high=number["high"], by_definition=False)
    if method.is_oracle and is_agreement:
        return Point(y=1.0, low=math.nan, high=math.nan, by_definition=True)
    return None


def _mark(axes: Axes, method: Method, point: Point) -> None:
    colour, y = method.colour, point.y
    axes.hlines(y, method.seconds, method.with_preparation, color=colour, linewidth=0.7)
    if not math.isnan(point.low):
        axes.vlines(method.seconds, point.low, point.high, color=colour, zorder=2)
    axes.plot(
        method.seconds,
        y,
        marker=method.marker,
        color=colour,
        markerfacecolor="white" if point.by_definition else colour,
        linestyle="none",
        zorder=3,
    )
    axes.annotate(
        method.label,
        (method.with_preparation, y),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        fontsize=7,
        color=colour,
        zorder=4,
        path_effects=[withStroke(linewidth=1.5, foreground="white")],
    )


def _level(axes: Axes, number: Row, name: str) -> None:
    """A horizontal line with its interval, for what has no cost per candidate."""
    axes.axhline(number["value"], color="0.35", linestyle="--", linewidth=0.8, zorder=1)
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
        color="0.35",
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


def _footer(study: Study, rows: list[Row]) -> str:
    devices = sorted({str(run.provenance.get("device", "?")) for run in study.runs.values()})
    seeds = sorted({row["seeds"] for row in rows})
    spread = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]}-{seeds[-1]}"
    parts = [f"study {study.name}", ", ".join(devices), f"seeds: {spread}", "95 % intervals"]
    return "; ".join([*parts, *study.notes])


if __name__ == "__main__":
    sys.exit(command(draw, "Quality against cost, as PDF and PNG."))
