"""From how many candidates on a method is cheaper than the exact influence, preparation included.

Draws from the rows ``prepare_seconds`` and ``seconds_per_candidate``; where a study has
``break_even_candidates`` (candidates from which on the student's gain repays the scoring), those
with their intervals at the right:

    python paper_figs/fig_break_even.py results/agreement --out figures
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogFormatterMathtext, LogLocator, NullFormatter

from influbench.results import Study
from paper_figs.drawing import MARKERS, caption, command, forest, legend, nothing, page, room, save
from paper_figs.records import Row, estimate, headline

NAME = "fig_break_even"
ORACLE = "exact"
REPAID = "break_even_candidates"
MOST = 8
"""Lines that the eye can tell apart; the methods with the dearest preparation."""


def draw(study: Study, out: Path) -> list[Path]:
    """Draws the figure and writes ``fig_break_even.pdf`` and ``.png``.

    Args:
        study: with the cost of the oracle and of another method.
        out: folder of the files; made where it is missing.

    Raises:
        UserError: no such costs.
    """
    once = {row["label"]: float(row["value"]) for row in headline(study, "prepare_seconds")}
    rows = {row["label"]: row for row in headline(study, "seconds_per_candidate")}
    oracle = [name for name, row in rows.items() if row["estimator"] == ORACLE]
    others = [name for name in rows if name not in oracle and name in once]
    if len(oracle) != 1 or not others:
        raise nothing(study, "the cost of exact and of another method", "influbench sweep")
    dearest = sorted(others, key=lambda name: -once[name])[: MOST - 1]
    gains = headline(study, REPAID)
    beside = room([str(row["label"]) for row in gains])
    with page(4.0 + (3.0 + beside) * bool(gains), 3.0) as figure:
        panels = figure.subplots(1, 1 + bool(gains), squeeze=False)[0]
        points = _costs(panels[0], [*oracle, *sorted(dearest)], once, rows)
        legend(figure, panels[0], 3)
        if gains:
            names = [str(row["label"]) for row in gains]
            panels[1].set_xscale("log")
            forest(panels[1], names, [estimate(row) for row in gains], None)
            decades = np.ptp(np.log10(panels[1].get_xlim()))
            steps = (1.0, 2.0, 5.0) if decades < 2 else (1.0,)
            panels[1].xaxis.set_major_locator(LogLocator(subs=steps, numticks=8))
            panels[1].xaxis.set_major_formatter("{x:g}" if decades < 2 else LogFormatterMathtext())
            panels[1].xaxis.set_minor_formatter(NullFormatter())
            panels[1].set_xlabel("candidates from which on it pays")
        left_out = len(others) - len(dearest)
        text = caption(
            study,
            f"n = {rows[oracle[0]]['n']} candidates timed; times of one machine, no interval",
            "marks: as dear as exact; left of them exact is cheaper",
            *points,
            *([f"{left_out} methods with cheaper preparation not drawn"] if left_out else []),
        )
        return save(figure, out, NAME, text)


def _costs(axes: Axes, names: list[str], once: dict[str, float], rows: dict[str, Row]) -> list[str]:
    """Lines of preparation + N times each; in words, where each meets the oracle's."""
    colours = matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]
    count = np.logspace(0, 4, 81)
    fixed, each = once.get(names[0], 0.0), float(rows[names[0]]["value"])
    said: list[str] = []
    for i, name in enumerate(names):
        own = float(rows[name]["value"])
        colour = colours[i % len(colours)]
        style = "-" if i == 0 else ("--", "-.", ":")[i % 3]
        # The mark stands at the crossing, where there is one.
        meets = (once.get(name, 0.0) - fixed) / (each - own) if own < each else -1.0
        axes.plot(
            count, once.get(name, 0.0) + count * own, color=colour, linestyle=style, label=name
        )
        if i and 1 <= meets <= count[-1]:
            axes.plot(meets, fixed + meets * each, marker=MARKERS[i], color=colour, ms=4)
        if i:
            where = f"from {max(meets, 1):.1f} candidates on" if own < each else "never"
            said.append(f"{name}: cheaper than {names[0]} {where}")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("candidates scored")
    axes.set_ylabel("seconds, preparation included")
    return said


if __name__ == "__main__":
    sys.exit(command(draw, "From how many candidates on a method is cheaper, as PDF and PNG."))
