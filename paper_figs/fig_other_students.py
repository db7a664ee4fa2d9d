"""Do data made for one student help another (figure 5 of the paper)?

Draws from the rows of a study whose runs have ``students``: others that learn each arm's data
beside the one that the influence was measured on:

    python paper_figs/fig_other_students.py results/transfer --out figures
"""

from __future__ import annotations

import sys
from pathlib import Path

from influbench.results import Study
from influbench.results.students import AXIS, PROBED
from influbench.statistics.estimate import Estimate
from paper_figs.drawing import caption, command, forest, nothing, page, room, save
from paper_figs.records import Row, counts, estimate, headline

NAME = "fig_other_students"
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
    rows: dict[str, list[Row]] = {metric: headline(study, metric) for metric in METRICS}
    shown = [metric for metric, found in rows.items() if found]
    if AXIS not in study.axes or not shown:
        wanted = "students of several models (students: [...])"
        raise nothing(study, wanted, "influbench sweep STUDY.yaml")
    places = {_place(row) for metric in shown for row in rows[metric]}
    names = sorted(places, key=lambda place: (PROBED not in place[0], *place))
    labels = [f"{model}: {arm}" for model, arm in names]
    with page(1.3 + room(labels) + 2.0 * len(shown), 0.9 + 0.22 * len(names)) as figure:
        panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        for axes, metric in zip(panels, shown, strict=True):
            own: dict[tuple[str, str], Estimate] = {
                _place(row): estimate(row) for row in rows[metric]
            }
            forest(axes, labels, [own.get(name) for name in names], None)
            axes.set_xlabel(METRICS[metric])
        used = [row for metric in shown for row in rows[metric]]
        text = caption(study, counts(used), "model that learnt: arm", drawn=used)
        return save(figure, out, NAME, text)


def _place(row: Row) -> tuple[str, str]:
    return str(row[AXIS]), str(row["estimator"])


if __name__ == "__main__":
    sys.exit(command(draw, "Students of other models, as PDF and PNG."))
