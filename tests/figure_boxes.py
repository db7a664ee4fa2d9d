"""Where the texts of a figure lie on the page, from the renderer itself."""

from __future__ import annotations

from itertools import combinations

from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox


def texts_of(figure: Figure) -> list[Text]:
    """All texts that a reader sees."""
    found = list(figure.findobj(Text))
    hidden: set[int] = set()
    for axis in (axis for axes in figure.axes for axis in axes.findobj(Axis)):
        assert isinstance(axis, Axis)
        low, high = sorted(axis.get_view_interval())
        for tick in axis.get_major_ticks():  # those beyond the ends are not drawn
            if not axis.axes.axison or not low <= tick.get_loc() <= high:
                hidden |= {id(tick.label1), id(tick.label2)}
    return [
        text for text in found if text.get_text() and text.get_visible() and id(text) not in hidden
    ]


def overlaps(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts that cover one another; turned ones are left out (a box says too much)."""
    figure.draw_without_rendering()
    drawn = [(text.get_text(), text.get_window_extent()) for text in texts_of(figure) if flat(text)]
    return [(a, b) for (a, x), (b, y) in combinations(drawn, 2) if covers(x, y)]


def flat(text: Text) -> bool:
    return text.get_rotation() % 90 == 0 and bool(text.get_window_extent().width)


def covers(a: Bbox, b: Bbox) -> bool:
    """More than a hair: boxes reach above and below the ink."""
    return min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 2
