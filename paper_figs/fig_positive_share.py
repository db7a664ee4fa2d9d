"""The share of training data with positive influence as the student learns (figure 3d).

Draws from the rows ``positive_share/P``: of the training data, scored with the student after the
share P of its steps:

    python paper_figs/fig_positive_share.py results/teaching --out figures
"""

from __future__ import annotations

import sys
from pathlib import Path

from influbench.results import Study
from influbench.statistics.estimate import Estimate
from paper_figs.drawing import Curve, caption, command, curves, legend, nothing, page, save
from paper_figs.records import KEEPING, Row, counts, estimate, parted

NAME = "fig_positive_share"
METRIC = "positive_share"
LINES = (
    "of the arm's training data, those with positive exact influence on its student, n scored",
    "a step at the peak of the student's learning rate; intervals over seed prompts",
)


def draw(study: Study, out: Path) -> list[Path]:
    """Draws the figure and writes ``fig_positive_share.pdf`` and ``.png``.

    Args:
        study: with shares by student checkpoint.
        out: folder of the files; made where it is missing.

    Raises:
        UserError: no such numbers.
    """
    found: dict[str, dict[float, Estimate]] = {}
    used: list[Row] = []
    for row in study.estimates.to_dict("records"):
        place = parted(str(row["metric"]), "/")
        if place and place[0] == METRIC:
            found.setdefault(str(row["label"]), {})[place[1]] = estimate(row).scaled(100, "%")
            used.append(row)
    if not found:
        wanted = "shares of the student's checkpoints (positive_share/P)"
        raise nothing(study, wanted, KEEPING)
    with page(3.5, 2.8) as figure:
        axes = figure.subplots()
        shown: dict[str, Curve] = dict(sorted(found.items()))
        curves(axes, shown)
        axes.axhline(50, color="0.6", linewidth=0.6, zorder=1)
        axes.set_xlim(0, 1.06)
        axes.set_xlabel("share of the student's steps")
        axes.set_ylabel("data with influence > 0 (%)")
        legend(figure, axes, 3)
        return save(figure, out, NAME, caption(study, counts(used), *LINES, drawn=used))


if __name__ == "__main__":
    sys.exit(command(draw, "Share of positive influence, as PDF and PNG."))
