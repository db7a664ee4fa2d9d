"""Three links whose truth is known: is it seen, is it transmitted, is it resolved?

Draws from the rows that a study has: ``auc`` (how often a useful candidate scores above another),
``written_RULE`` (what a teacher writes that was taught on pairs of a known rule) and
``heldout_loss`` of students of ``N% useful`` rows:

    python paper_figs/fig_controls.py results/positive_control_resolves --out figures
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from matplotlib.axes import Axes

from influbench.results import BASE, Study
from paper_figs.drawing import caption, command, curves, forest, nothing, page, room, save
from paper_figs.records import Row, counts, estimate, headline

NAME = "fig_controls"
SHARE = re.compile(r"(\d+(?:\.\d+)?)% useful")
WRITTEN = {
    "written_length": "words of what it writes",
    "written_arithmetic": "share of arithmetic in what it writes",
}


def draw(study: Study, out: Path) -> list[Path]:
    """Draws the figure and writes ``fig_controls.pdf`` and ``.png``.

    Args:
        study: a positive control, or another study whose truth is known.
        out: folder of the files; made where it is missing.

    Raises:
        UserError: no such numbers.
    """
    panels: dict[str, list[Row]] = {
        "auc": headline(study, "auc"),
        **{metric: headline(study, metric) for metric in WRITTEN},
        "heldout_loss": [
            row for row in headline(study, "heldout_loss") if SHARE.fullmatch(str(row["label"]))
        ],
    }
    panels = {metric: rows for metric, rows in panels.items() if rows}
    if not panels:
        wanted = "numbers of a positive control (auc, written_RULE, heldout_loss of N% useful)"
        raise nothing(study, wanted, "influbench sweep experiments/positive_control_resolves.yaml")
    height = max(2.6, 0.9 + 0.2 * max(map(len, panels.values())))
    labels = [str(row["label"]) for rows in panels.values() for row in rows]
    with page(0.6 + (3.0 + room(labels)) * len(panels), height) as figure:
        places = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, (metric, rows) in zip(places, panels.items(), strict=True):
            if metric == "heldout_loss":
                _resolved(axes, study, rows)
                continue
            rows = sorted(rows, key=lambda row: -float(row["value"]))
            names = [str(row["label"]) for row in rows]
            by_chance = 0.5 if metric == "auc" else None
            forest(axes, names, [estimate(row) for row in rows], by_chance)
            axes.set_xlabel(WRITTEN.get(metric, "chance that the right row scores above"))
        used = [row for rows in panels.values() for row in rows]
        return save(figure, out, NAME, caption(study, counts(used), drawn=used))


def _resolved(axes: Axes, study: Study, rows: list[Row]) -> None:
    """Held-out loss by share of useful rows; the untrained student as a line."""
    found = {
        float(part[1]): estimate(row)
        for row in rows
        if (part := SHARE.fullmatch(str(row["label"])))
    }
    curves(axes, {"trained": found})
    for row in headline(study, "heldout_loss"):
        if row["label"] == BASE:
            axes.axhline(float(row["value"]), color="0.6", lw=0.8, ls="--")
            axes.annotate(
                "not trained", (1, float(row["value"])), xycoords=("axes fraction", "data"),
                ha="right", va="top", fontsize=6.5, xytext=(0, -2), textcoords="offset points",
            )  # fmt: skip
    axes.set_xlabel("useful rows in the training set (%)")
    axes.set_ylabel("held-out loss (nats/token)")


if __name__ == "__main__":
    sys.exit(command(draw, "Controls whose truth is known, as PDF and PNG."))
