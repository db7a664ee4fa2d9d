"""Which arm made the better student: each arm minus the control, over seeds and prompts.

Draws from ``outcomes`` (``results.differences``); an interval over fewer than three seeds is drawn
hollow, since it says nothing of other seeds:

    python paper_figs/fig_differences.py results/quickstart --out figures
"""

from __future__ import annotations

import sys
from pathlib import Path

from influbench.results import Study
from influbench.results.differences import differences
from influbench.statistics.estimate import Estimate
from influbench.statistics.seeds import ENOUGH
from paper_figs.drawing import caption, command, forest, nothing, page, room, save
from paper_figs.records import estimate

NAME = "fig_differences"
TITLES = {
    "win_rate": "win rate (points)",
    "grade": "grade (1-10)",
    "heldout_loss": "held-out loss (nats/token)",
}


def draw(study: Study, out: Path) -> list[Path]:
    """Draws the figure and writes ``fig_differences.pdf`` and ``.png``.

    Args:
        study: with outcomes of two arms or more.
        out: folder of the files; made where it is missing.

    Raises:
        UserError: nothing to compare.
    """
    found = differences(study)
    if found.empty:
        raise nothing(study, "outcomes of two arms on the same prompts", "influbench sweep")
    rows = found.to_dict("records")
    names = sorted({row["label"] for row in rows})
    metrics = [metric for metric in TITLES if metric in set(found["metric"])]
    with page(0.8 + room(names) + 2.1 * len(metrics), 0.9 + 0.24 * len(names)) as figure:
        panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
        for axes, metric in zip(panels, metrics, strict=True):
            own = {row["label"]: row for row in rows if row["metric"] == metric}
            numbers: list[Estimate | None] = [
                estimate({**own[name], "n": own[name]["prompts"]}) if name in own else None
                for name in names
            ]
            forest(axes, names, numbers, 0.0)
            for line in axes.lines:
                place = line.get_ydata()
                if line.get_marker() == "o" and own[names[int(place[0])]]["seeds"] < ENOUGH:
                    line.set_markerfacecolor("white")
            axes.set_xlabel(f"{TITLES[metric]}\nminus {rows[0]['against']}")
        seeds = {row["seeds"] for row in rows}
        prompts = {row["prompts"] for row in rows}
        text = caption(
            study,
            f"n = {min(prompts)}-{max(prompts)} prompts, {min(seeds)}-{max(seeds)} seeds",
            f"hollow: fewer than {ENOUGH} seeds, no answer; for losses less is better",
        )
        return save(figure, out, NAME, text)


if __name__ == "__main__":
    sys.exit(command(draw, "Differences of arms over seeds, as PDF and PNG."))
