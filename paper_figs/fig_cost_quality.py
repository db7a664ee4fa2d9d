"""Quality against cost: which way of measuring influence is worth its price.

Left: agreement with the exact influence; right, where students were evaluated: their win rate. Both
against measured seconds per candidate. A study of many methods in several places (students,
references) gets a panel a place. Reads ``results/<study>`` and nothing else:

    python paper_figs/fig_cost_quality.py results/quickstart --out figures
"""

from __future__ import annotations

import math
import sys
from itertools import pairwise
from pathlib import Path

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from influbench.results import Study
from paper_figs import labels
from paper_figs.drawing import QUIET, caption, command, interval, nothing, page, room, save
from paper_figs.panels import DIRECT, ORACLE, Panel, Point, Row, panels_of
from paper_figs.records import counts

NAME = "fig_cost_quality"
TITLES = {
    "spearman": "Spearman correlation with exact",
    "kendall": "Kendall's tau-b with exact",
    "spearman_within": "Spearman correlation with exact, within a seed prompt",
    "pair_precision": "pairs ordered as by exact (share)",
    "win_rate": "win rate of the student (%)",
}


def draw(study: Study, out: Path, agreement: str = "spearman") -> list[Path]:
    """Draws the figure and writes ``fig_cost_quality.pdf`` and ``.png``.

    Args:
        study: with ``seconds_per_candidate`` and an agreement metric or ``win_rate``.
        out: folder of the two files; made where it is missing.
        agreement: the metric of the left panel.

    Raises:
        UserError: the study holds nothing to draw.
    """
    with page(7.0, 2.9) as figure:
        found = panels_of(study, agreement)
        if not found:
            wanted = f"estimators with seconds_per_candidate and {agreement} or win_rate"
            raise nothing(study, wanted, "influbench sweep")
        crowded = max(len(panel.points) for panel in found) > DIRECT
        wide = 4.4 if max(len(panel.points) for panel in found) > 12 else 3.5
        columns = min(len(found), 2)
        lines = math.ceil(len(found) / columns)
        figure.set_size_inches(wide * columns, 3.3 * lines)
        panels = list(figure.subplots(lines, columns, squeeze=False).flat)
        for axes in panels[len(found) :]:
            axes.remove()
        drawings = list(zip(panels, found, strict=False))
        for axes, panel in drawings:
            _draw(axes, panel)
        if crowded or not all(_named(axes, panel.points) for axes, panel in drawings):
            beside = room([point.name for panel in found for point in panel.points])
            figure.set_size_inches(3.6 * columns + 1.2 + beside, 3.6 * lines)
            _legend(figure, [point for panel in found for point in panel.points])
        drawn = [
            point.method.numbers[panel.metric]
            for panel in found
            for point in panel.points
            if not point.by_definition
        ]
        text = caption(
            study,
            counts(drawn),
            "tail: with the preparation shared among the candidates scored",
            "grey steps: nothing measured is both cheaper and better (Pareto front)",
            "hollow: agreement of the oracle with itself, 1 by definition",
            drawn=drawn,
        )
        return save(figure, out, NAME, text)


def _draw(axes: Axes, panel: Panel) -> None:
    points, is_agreement = panel.points, panel.is_agreement
    axes.set_xscale("log")
    axes.set_xlabel("seconds per candidate (tail: + preparation)")
    axes.set_title(panel.place, fontsize=6.5)
    title = TITLES.get(panel.metric, panel.metric)
    own = any(point.method.estimator == ORACLE for point in points)
    axes.set_ylabel(title if own else title.replace("with exact", "with the oracle"))
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
    if panel.level is not None:
        _level(
            axes, panel.level, "exact,\nhalf vs\nhalf" if is_agreement else "teacher\nnot\ntaught"
        )
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
    columns = math.ceil(len(names) / 24)
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
