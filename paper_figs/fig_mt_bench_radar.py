"""MT-Bench by category, as a radar: one line a student.

Reads ``results/<study>`` and nothing else:

python paper_figs/fig_mt_bench_radar.py results/evaluate --out figures
"""

from __future__ import annotations

import math
import sys
from itertools import cycle
from pathlib import Path

from influbench.results import Study
from paper_figs.drawing import MARKERS, caption, command, nothing, page, save
from paper_figs.records import Row, counts

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
    students: dict[tuple[str, str], dict[str, float]] = {}
    used: list[Row] = []
    for row in study.rows.to_dict("records"):
        category = str(row["metric"]).removeprefix(GRADE)
        if category != row["metric"]:
            students.setdefault((row["estimator"], row["run"]), {})[category] = row["value"]
            used.append(row)
    categories = sorted({name for grades in students.values() for name in grades})
    if len(categories) < 3:
        wanted = "MT-Bench grades in three categories or more"
        raise nothing(study, wanted, "influbench evaluate --suite mt_bench")
    angles = [2 * math.pi * n / len(categories) for n in range(len(categories))]
    with page(3.5, 3.3) as figure:
        axes = figure.add_subplot(projection="polar")
        axes.set_xticks(angles, categories)
        axes.set_ylim(0, 10)
        axes.set_yticks([2, 4, 6, 8, 10])
        markers = cycle(MARKERS)
        names = [student for student, _ in students]
        for (student, run), found in students.items():
            grades = [found.get(name, math.nan) for name in categories]
            axes.plot(
                [*angles, angles[0]],
                [*grades, grades[0]],
                marker=next(markers),
                linewidth=1,
                label=student if names.count(student) == 1 else f"{student} ({run})",
            )
        figure.legend(loc="outside upper left", fontsize=6)
        text = f"{counts(used)} questions a category; intervals: the study's table"
        return save(figure, out, NAME, caption(study, text, "mean grade of both turns, 1-10"))


if __name__ == "__main__":
    sys.exit(command(draw, "MT-Bench by category, as PDF and PNG."))
