"""The student's score against how far the teacher's DPO had gone (figures 3a and 3b of the paper).

Draws from the rows ``midway/P/win_rate``, ``midway/P/grade`` and ``midway/P/heldout_loss``: the
arm's student, trained on what the teacher wrote after the share P of its DPO steps (P = 0: the
teacher that the round began with):

    python paper_figs/fig_teacher_progress.py results/teaching --out figures
"""

from __future__ import annotations

import sys
from pathlib import Path

from influbench.results import Study
from influbench.statistics.estimate import Estimate
from paper_figs.drawing import Curve, caption, command, curves, legend, nothing, page, save
from paper_figs.records import KEEPING, MIDWAY, Row, counts, estimate

NAME = "fig_teacher_progress"
TITLES = {
    "win_rate": "win rate (%)",
    "grade": "grade (1-10)",
    "heldout_loss": "held-out loss (nats/token)",
}
LINES = (
    "of the student that learns what the teacher writes",
    "win rate against the student of the untaught teacher, which is 50 % by definition (grey)",
    "points of an arm stand a little apart so that their intervals can be seen",
)


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
    for row in study.estimates.to_dict("records"):
        found = MIDWAY.fullmatch(str(row["metric"]))
        if found and found[2] in TITLES:
            curve = panels.setdefault(found[2], {}).setdefault(str(row["label"]), {})
            curve[float(found[1])] = estimate(row)
            used.append(row)
    if not panels:
        wanted = "students of the teacher's checkpoints (midway/P/win_rate, grade, heldout_loss)"
        raise nothing(study, wanted, KEEPING)
    with page(3.4 * len(panels), 2.8) as figure:
        places = figure.subplots(1, len(panels), squeeze=False)[0]
        shown = [metric for metric in TITLES if metric in panels]
        for axes, metric in zip(places, shown, strict=True):
            every: dict[str, Curve] = dict(sorted(panels[metric].items()))
            curves(axes, every)
            if metric == "win_rate":
                axes.axhline(50, color="0.6", linewidth=0.6, zorder=1)
            axes.set_xlim(-0.06, 1.06)
            axes.set_xlabel("share of the teacher's DPO steps")
            axes.set_ylabel(TITLES[metric])
        legend(figure, places[0])
        return save(figure, out, NAME, caption(study, counts(used), *LINES, drawn=used))


if __name__ == "__main__":
    sys.exit(command(draw, "Student against the teacher's progress, as PDF and PNG."))
