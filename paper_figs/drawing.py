"""What all figures share: one style, intervals, captions, the files of each, the command line."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from influbench.errors import UserError
from influbench.results import Study, load_study, outputs, result_file
from influbench.statistics.estimate import Estimate

MARK = "influbench"
"""Stands in each file, so that no figure of somebody else is ever overwritten."""
STYLE = Path(__file__).with_name("style.mplstyle")
MARKERS = "osD^vP*X<>h"  # as many as share no factor with the eight colours
UNRECORDED = "no command records this yet: put such rows into the result file yourself"
USUAL, LETTER = 24, 0.05
"""Letters of a name that every page has room for, and inches of one more."""
USUAL_LINES, LINE = 3, 0.15
"""Lines of a legend that every page has room for, and inches of one more."""
QUIET = "0.35"
"""Colour of what is no data: footnotes, reference lines."""


@contextmanager
def page(width: float, height: float) -> Generator[Figure]:
    """An empty figure in the one style, inches; draw and ``save`` inside the block."""
    with matplotlib.rc_context(fname=str(STYLE)):
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)
        yield figure


def room(names: Sequence[str]) -> float:
    """Inches of names beside their lines that a page has to have beyond its own measure.

    A name of up to ``USUAL`` letters fits anyway; one with its options
    (``adam_jvp(preconditioner=adam_after, clipped=true)``) would leave no place for numbers.
    """
    longest = max((len(line) for name in names for line in name.splitlines()), default=0)
    return LETTER * max(0, longest - USUAL)


def interval(
    axes: Axes, x: float, low: float, high: float, colour: str, *, across: bool = False
) -> None:
    """The 95 % interval of a number; nothing where there is none.

    Args:
        axes: where.
        x: the place on the other axis.
        low: lower bound; NaN where it is not known.
        high: upper bound.
        colour: that of the point.
        across: whether the interval lies along x.
    """
    if math.isnan(low) or math.isnan(high):
        return
    line = axes.hlines if across else axes.vlines
    line(x, low, high, color=colour, linewidth=1.0, zorder=2)


def caption(study: Study, *lines: str, drawn: Sequence[Mapping[str, Any]] | None = None) -> str:
    """What a reader must know: study, device, seeds, what the marks mean, the study's own notes.

    Args:
        study: the figure's.
        lines: more to say, each on a line of its own.
        drawn: rows of ``study.estimates`` that the figure shows; all of them where it is None.
    """
    devices = sorted({str(run.provenance.get("device", "?")) for run in study.runs.values()})
    rows = study.estimates.to_dict("records") if drawn is None else drawn
    seeds = sorted({int(row["seeds"]) for row in rows})
    spread = f"{seeds[0]}-{seeds[-1]}" if len(seeds) > 1 else str(seeds[0] if seeds else 0)
    first = f"{MARK} study {study.name}; {', '.join(devices)}; seeds: {spread}; 95 % intervals"
    return "\n".join([first, *lines, *study.notes])


def save(figure: Figure, out: Path, name: str, text: str) -> list[Path]:
    """Writes ``name.pdf``, ``name.png`` and the caption ``name.txt``; returns the first two.

    The first line of the caption stands in the figure too, small.

    Args:
        figure: drawn.
        out: folder; made where it is missing.
        name: of the files.
        text: see :func:`caption`.

    Raises:
        UserError: a file of that name is there that influbench did not write.
    """
    out.mkdir(parents=True, exist_ok=True)
    files = [outputs.claim(out / f"{name}.{kind}", _drawn) for kind in ("pdf", "png", "txt")]
    # Under the page and not part of its layout, which names were fitted into.
    figure.text(0.01, -0.01, text.partition("\n")[0], fontsize=5.5, color=QUIET, va="top")
    # No dates or versions inside: the same study gives the same bytes.
    figure.savefig(files[0], bbox_inches="tight", metadata={"CreationDate": None, "Creator": MARK})
    figure.savefig(files[1], bbox_inches="tight", metadata={"Software": MARK})
    files[2].write_text(text + "\n", encoding="utf-8")
    return files[:2]


def _drawn(path: Path) -> bool:
    """A figure of ours: marked as such, or beside the results that it shows."""
    beside = any(result_file.is_result(other) for other in path.parent.glob("*.json"))
    marked = path.with_suffix(".pdf") if path.suffix == ".txt" else path  # a caption has no mark
    return beside or (marked.is_file() and MARK.encode() in marked.read_bytes())


class MissingError(UserError):
    """A study does not hold the numbers of a figure."""

    def __init__(self, study: Study, expected: str, command: str | None) -> None:
        self.needs = f"needs {expected}; " + (f"run '{command}'" if command else UNRECORDED)
        super().__init__(
            f"expected {expected} in study '{study.name}' ({study.path}), got none: "
            + (f"run '{command}' first" if command else UNRECORDED)
        )


def nothing(study: Study, expected: str, command: str | None) -> MissingError:
    """The error of a figure whose numbers a study does not hold.

    Args:
        study: that was to be drawn.
        expected: the numbers that it lacks.
        command: what records them; None where nothing does yet.
    """
    return MissingError(study, expected, command)


def forest(
    axes: Axes, names: Sequence[str], numbers: Sequence[Estimate | None], reference: float | None
) -> None:
    """One line a name, top down: its number and interval; names at the left.

    Args:
        axes: where.
        names: one a line.
        numbers: in the same order; None leaves the line empty.
        reference: where "no difference" lies, as a grey line; None draws none.
    """
    colours = matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]
    if reference is not None:
        axes.axvline(reference, color="0.6", linewidth=0.6, zorder=1)
    for place, number in enumerate(numbers):
        if number is not None:
            interval(axes, place, *number.bounds, colours[0], across=True)
            axes.plot(number.value, place, marker="o", ms=3, color=colours[0], linestyle="none")
    axes.set_yticks(range(len(names)), names, fontsize=6.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    if axes.get_xscale() == "linear":
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4))


Curve = Mapping[float, Estimate]
"""By place on the x axis."""


def curves(axes: Axes, found: Mapping[str, Curve]) -> None:
    """One line a name through its numbers, each with its interval; names for a legend.

    Lines stand a little apart, so that intervals at the same place do not cover one another.
    """
    colours = matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]
    there, back = (math.log2, math.exp2) if axes.get_xscale() == "log" else (float, float)
    every = sorted({there(x) for curve in found.values() for x in curve})
    gaps = [b - a for a, b in pairwise(every)]
    step = min(gaps, default=1.0) * min(0.5 / max(len(found), 1), 0.06)
    for i, (name, curve) in enumerate(found.items()):
        colour, marker = colours[i % len(colours)], MARKERS[i % len(MARKERS)]
        shift = (i - (len(found) - 1) / 2) * step
        xs = [back(there(x) + shift) for x in sorted(curve)]
        ys = [curve[x] for x in sorted(curve)]
        for x, y in zip(xs, ys, strict=True):
            interval(axes, x, *y.bounds, colour)
        values = [y.value for y in ys]
        axes.plot(xs, values, color=colour, marker=marker, ms=3.5, linewidth=0.8, label=name)


def legend(figure: Figure, axes: Axes, columns: int = 4) -> None:
    """The names of ``axes`` above the figure, where they cover nothing; long ones in one column.

    The page grows by the rows beyond those that it has room for.
    """
    handles, names = axes.get_legend_handles_labels()
    columns = 1 if room(names) else columns
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + LINE * max(0, -(-len(names) // columns) - USUAL_LINES))
    figure.legend(handles, names, ncols=columns, loc="outside upper left", fontsize=6.5)


def command(draw: Callable[[Study, Path], list[Path]], description: str) -> int:
    """The command line of a figure: study folder or name, and where to write; the exit code."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("study", help="a folder of results, such as results/quickstart")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder of the files")
    options = parser.parse_args()
    try:
        files = draw(load_study(options.study), options.out)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(map(str, files)))
    return 0
