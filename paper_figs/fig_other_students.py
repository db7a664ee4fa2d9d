"""Do data made for one student help another (figure 5 of the paper)?

Draws from the rows of a study whose grid varies ``trained.name``: the student that learns, where
the influence was measured on ``student``:

    python paper_figs/fig_other_students.py results/transfer --out figures
"""

from __future__ import annotations

import sys
from pathlib import Path

from influbench.results import Study
from influbench.statistics.estimate import Estimate
from paper_figs.drawing import caption, command, forest, nothing, page, save
from paper_figs.records import Row, counts, estimate, headline

NAME = "fig_other_students"
AXIS = "trained.name"
PROBED = "the student probed"
METRICS = {
    "win_rate": "win rate (%)",
    "grade": "grade (1-10)",
    "heldout_loss": "held-out loss (nats/token)",
}


def draw(study: Study, out: Path) -> list[Path]:
    """Draws the figure and writes ``fig_other_students.pdf`` and ``.png``.

    Args:
        study: whose students are of several models.
        out: folder of the files; made where it is missing.

    Raises:
        UserError: one model only.
    """
    axis = AXIS if AXIS in study.axes else "trained" if "trained" in study.axes else None
    rows: dict[str, list[Row]] = {metric: headline(study, metric) for metric in METRICS}
    shown = [metric for metric, found in rows.items() if found]
    if axis is None or not shown:
        wanted = "students of several models (grid: trained.name)"
        raise nothing(study, wanted, "influbench sweep STUDY.yaml")
    names = sorted({_place(row, axis) for metric in shown for row in rows[metric]})
    with page(1.3 + 2.0 * len(shown), 0.9 + 0.22 * len(names)) as figure:
        panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        for axes, metric in zip(panels, shown, strict=True):
            own: dict[tuple[str, str], Estimate] = {
                _place(row, axis): estimate(row) for row in rows[metric]
            }
            labels = [f"{model}: {arm}" for model, arm in names]
            forest(axes, labels, [own.get(name) for name in names], None)
            axes.set_xlabel(METRICS[metric])
        used = [row for metric in shown for row in rows[metric]]
        return save(figure, out, NAME, caption(study, counts(used), "model that learnt: arm"))


def _place(row: Row, axis: str) -> tuple[str, str]:
    return str(row[axis] or PROBED), str(row["estimator"])


if __name__ == "__main__":
    sys.exit(command(draw, "Students of other models, as PDF and PNG."))
