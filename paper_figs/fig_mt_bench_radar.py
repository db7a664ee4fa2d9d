"""MT-Bench by category, as a radar: one line a student, with intervals along the spokes.

Reads ``results/<study>`` and nothing else:

    python paper_figs/fig_mt_bench_radar.py results/evaluate --out figures
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import matplotlib

from influbench.results import Study
from influbench.statistics.estimate import Estimate
from paper_figs.drawing import (
    MARKERS,
    QUIET,
    caption,
    command,
    interval,
    legend,
    nothing,
    page,
    save,
)
from paper_figs.records import Row, counts, estimate

NAME = "fig_mt_bench_radar"
GRADE = "mt_bench/grade/"


def draw(study: Study, out: Path) -> list[Path]:
    """Draws the figure and writes ``fig_mt_bench_radar.pdf`` and ``.png``.

    Args:
        study: with ``mt_bench/grade/CATEGORY`` of one student or more.
        out: folder of the two files; made where it is missing.

    Raises:
        UserError: fewer than three categories.
    """
    students: dict[str, dict[str, Estimate]] = {}
    used: list[Row] = []
    for row in study.estimates.to_dict("records"):
        category = str(row["metric"]).removeprefix(GRADE)
        if category != row["metric"]:
            students.setdefault(str(row["label"]), {})[category] = estimate(row)
            used.append(row)
    categories = sorted({name for grades in students.values() for name in grades})
    if len(categories) < 3:
        wanted = "MT-Bench grades in three categories or more"
        raise nothing(study, wanted, "influbench evaluate --suite mt_bench")
    angles = [2 * math.pi * n / len(categories) for n in range(len(categories))]
    with page(3.5, 3.8) as figure:
        colours = matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]
        axes = figure.add_subplot(projection="polar")
        axes.set_xticks(angles, categories)
        axes.tick_params(axis="x", pad=7)
        axes.set_ylim(0, 10)
        axes.set_rlabel_position(180 / len(categories))  # pyright: ignore[reportAttributeAccessIssue]
        axes.set_yticks([2, 4, 6, 8, 10], ["2", "4", "6", "8", "10"], fontsize=5.5, color=QUIET)
        for i, (student, found) in enumerate(sorted(students.items())):
            colour = colours[i % len(colours)]
            # A little apart, so that intervals on one spoke do not cover one another.
            shift = (i - (len(students) - 1) / 2) * min(0.06, 0.3 / len(students))
            grades = [found[name].value if name in found else math.nan for name in categories]
            turned = [angle + shift for angle in angles]
            axes.plot(
                [*turned, turned[0]],
                [*grades, grades[0]],
                color=colour,
                marker=MARKERS[i % len(MARKERS)],
                markersize=3,
                linewidth=0.8,
                label=student,
            )
            for angle, name in zip(turned, categories, strict=True):
                if name in found:
                    interval(axes, angle, *found[name].bounds, colour)
        legend(figure, axes, 3)
        text = f"{counts(used)} questions a category; intervals over questions"
        what = "mean grade of both turns, 1-10"
        return save(figure, out, NAME, caption(study, text, what, drawn=used))


if __name__ == "__main__":
    sys.exit(command(draw, "MT-Bench by category, as PDF and PNG."))
