"""What all figures share: one style, intervals, captions, the files of each, the command line."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from influbench.errors import UserError
from influbench.results import Study, load_study, outputs, result_file

MARK = "influbench"
"""Stands in each file, so that no figure of somebody else is ever overwritten."""
STYLE = Path(__file__).with_name("style.mplstyle")
MARKERS = "osD^vP*X<>h"  # as many as share no factor with the eight colours
QUIET = "0.35"
"""Colour of what is no data: footnotes, reference lines."""


@contextmanager
def page(width: float, height: float) -> Iterator[Figure]:
    """An empty figure in the one style, inches; draw and ``save`` inside the block."""
    with matplotlib.rc_context(fname=str(STYLE)):
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)
        yield figure


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


def caption(study: Study, *lines: str) -> str:
    """What a reader must know: study, device, seeds, what the marks mean, the study's own notes."""
    devices = sorted({str(run.provenance.get("device", "?")) for run in study.runs.values()})
    seeds = sorted(set(study.estimates["seeds"]))
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
    figure.supxlabel(text.partition("\n")[0], fontsize=5.5, color=QUIET, x=0.01, ha="left")
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


def nothing(study: Study, expected: str, command: str) -> UserError:
    """The error of a figure whose numbers a study does not hold."""
    return UserError(
        f"expected {expected} in study '{study.name}' ({study.path}), got none: run '{command}' "
        "first"
    )


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
