"""The student's score against how far the teacher's DPO had gone (figures 3a and 3b of the paper).

Draws from the rows ``win_rate`` and ``grade`` of ``NAME@P``: the arm's student, trained on what the
teacher wrote after the share P of its DPO steps:

    python paper_figs/fig_teacher_progress.py results/teaching --out figures
"""

from __future__ import annotations

import sys
from pathlib import Path

from influbench.results import Study
from influbench.statistics.estimate import Estimate
from paper_figs.drawing import Curve, caption, command, curves, legend, nothing, page, save
from paper_figs.records import CHECKPOINT, Row, counts, estimate, headline, parted

NAME = "fig_teacher_progress"
TITLES = {
    "win_rate": "win rate of the student (%)",
    "grade": "grade of the student (1-10)",
    "heldout_loss": "held-out loss of the student (nats/token)",
}


def draw(study: Study, out: Path) -> list[Path]:
    """Draws the figure and writes ``fig_teacher_progress.pdf`` and ``.png``.

    Args:
        study: with students of teachers from the middle of their training.
        out: folder of the files; made where it is missing.

    Raises:
        UserError: no such students.
    """
    panels: dict[str, dict[str, dict[float, Estimate]]] = {}
    used: list[Row] = []
    for metric in TITLES:
        for row in headline(study, metric):
            if found := parted(str(row["label"]), CHECKPOINT):
                panels.setdefault(metric, {}).setdefault(found[0], {})[found[1]] = estimate(row)
                used.append(row)
    if not panels:
        wanted = "students of the teacher's checkpoints (NAME@P with win_rate or grade)"
        raise nothing(study, wanted, None)
    with page(3.4 * len(panels), 2.8) as figure:
        places = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, (metric, found) in zip(places, panels.items(), strict=True):
            shown: dict[str, Curve] = dict(found)
            curves(axes, shown)
            axes.set_xlabel("share of the teacher's DPO steps")
            axes.set_ylabel(TITLES[metric])
        legend(figure, places[0])
        return save(figure, out, NAME, caption(study, counts(used)))


if __name__ == "__main__":
    sys.exit(command(draw, "Student against the teacher's progress, as PDF and PNG."))
