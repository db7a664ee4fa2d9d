"""Names beside points that cover no other name, no point and no interval.

A label tries places around its point, near ones first, and takes the first that is free; one that
had to go far gets a thin line back. Sizes come from the renderer, so the figure must have its final
size and limits before.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.path import Path
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

DISTANCES = (5, 8, 12, 17, 23, 30, 38, 47, 57, 68, 80, 95, 110, 130, 150)
"""From the point to the nearest corner of its name, points of 1/72 inch."""
ANGLES = (0, 180, 45, -45, 135, -135, 90, -90, 22, -22, 158, -158, 68, -68, 112, -112)
NEAR = 8
"""Distance up to which a name needs no line to its point."""
Segment = tuple[tuple[float, float], tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Label:
    """A name and the point that it belongs to, in data coordinates."""

    text: str
    x: float
    y: float
    colour: str


def place(axes: Axes, labels: Sequence[Label], drawn: Sequence[Segment], size: float = 6.5) -> bool:
    """Writes the names; those in a crowd first.

    Args:
        axes: with all that is drawn but the names.
        labels: what is to be written.
        drawn: markers (a segment of no length), intervals and lines that no name may cover, in
            data coordinates.
        size: of the font.

    Returns:
        Whether all found room; if not, none is written.
    """
    figure = axes.get_figure(root=True)
    assert isinstance(figure, Figure)
    written = [_write(axes, label, size) for label in labels]
    figure.draw_without_rendering()
    scale = figure.dpi / 72
    free = axes.get_window_extent().padded(-1)
    taken = [_box(axes, segment, 3.0 * scale) for segment in drawn]
    # A line back may cross an interval, but neither a marker nor a name.
    solid = [box for box, (a, b) in zip(taken, drawn, strict=True) if a == b]
    leaders: list[Path] = []
    for i in _crowded_first(axes, labels, 40 * scale):
        text, label = written[i], labels[i]
        x, y = axes.transData.transform((label.x, label.y))
        start = (float(x), float(y))
        extent = text.get_window_extent()
        for distance, box, end in _places(start, extent.width + 2, extent.height, scale):
            line = Path([start, end])
            inside = free.x0 <= box.x0 and box.x1 <= free.x1
            if not inside or box.y0 < free.y0 or box.y1 > free.y1:
                continue
            if any(box.overlaps(other) for other in taken):
                continue
            if any(path.intersects_bbox(box, filled=False) for path in leaders):
                continue
            if distance > NEAR and _crosses(line, solid, start):
                continue
            _move(axes, text, box, scale, start, end if distance > NEAR else None, label.colour)
            taken.append(box)
            solid.append(box)
            if distance > NEAR:
                leaders.append(line)
            break
        else:
            for text in written:
                text.remove()
            for line in [line for line in axes.lines if line.get_gid() == "leader"]:
                line.remove()
            return False
    return True


def _crowded_first(axes: Axes, labels: Sequence[Label], near: float) -> list[int]:
    """Those with the most points near them choose first; the order never depends on the list's."""
    points = axes.transData.transform([(label.x, label.y) for label in labels])
    crowd = [sum(math.dist(a, b) < near for b in points) for a in points]
    return sorted(range(len(labels)), key=lambda i: (-crowd[i], -points[i][1], labels[i].text))


def _write(axes: Axes, label: Label, size: float) -> Annotation:
    text = axes.annotate(
        label.text,
        (label.x, label.y),
        xytext=(0, 0),
        textcoords="offset points",
        va="center",
        ha="center",
        fontsize=size,
        color=label.colour,
        zorder=4,
        path_effects=[withStroke(linewidth=1.5, foreground="white")],
    )
    text.set_in_layout(False)
    return text


def _box(axes: Axes, segment: Segment, around: float) -> Bbox:
    ends = axes.transData.transform(segment)
    low, high = ends.min(axis=0), ends.max(axis=0)
    flat = 1.5  # an interval is thin; its marker stands in the list by itself
    pad = around if list(low) == list(high) else flat
    return Bbox([low - pad, high + pad])


def _places(
    start: Sequence[float], width: float, height: float, scale: float
) -> Iterator[tuple[int, Bbox, tuple[float, float]]]:
    """Distance, box of the name, and where a line from the point would meet it."""
    for distance in DISTANCES:
        for angle in ANGLES:
            across, up = math.cos(math.radians(angle)), math.sin(math.radians(angle))
            end = (start[0] + distance * scale * across, start[1] + distance * scale * up)
            x = end[0] + (width / 2) * (0 if abs(across) < 0.1 else math.copysign(1, across))
            y = end[1] + (height / 2) * (0 if abs(up) < 0.1 else math.copysign(1, up))
            yield distance, Bbox.from_bounds(x - width / 2, y - height / 2, width, height), end


def _crosses(line: Path, solid: Sequence[Bbox], start: Sequence[float]) -> bool:
    others = [box for box in solid if not box.contains(*start)]
    return any(line.intersects_bbox(box, filled=False) for box in others)


def _move(
    axes: Axes,
    text: Annotation,
    box: Bbox,
    scale: float,
    start: Sequence[float],
    end: tuple[float, float] | None,
    colour: str,
) -> None:
    middle = ((box.x0 + box.x1) / 2 - start[0], (box.y0 + box.y1) / 2 - start[1])
    text.set_position((middle[0] / scale, middle[1] / scale))
    if end is not None:
        x, y = zip(*axes.transData.inverted().transform([tuple(start), end]), strict=True)
        axes.plot(x, y, color=colour, linewidth=0.4, alpha=0.7, zorder=1, gid="leader")
