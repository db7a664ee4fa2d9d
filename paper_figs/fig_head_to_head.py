"""Win, tie and lose against a baseline (figure 4 of the paper), one bar a student.

Reads ``results/<study>`` and nothing else:

    python paper_figs/fig_head_to_head.py results/evaluate --out figures
"""

from __future__ import annotations

import sys
from pathlib import Path

from influbench.results import Study
from paper_figs.drawing import caption, command, nothing, page, save

NAME = "fig_head_to_head"
PARTS = {"win": "#2a6f97", "tie": "#c9c9c9", "lose": "#bc4b51"}


def draw(study: Study, out: Path) -> list[Path]:
    """Draws the figure and writes ``fig_head_to_head.pdf`` and ``.png``.

    Args:
        study: with ``head_to_head/win``, ``tie`` and ``lose``.
        out: folder of the two files; made where it is missing.

    Raises:
        UserError: nothing was compared head to head.
    """
    bars: dict[str, dict[str, float]] = {}
    counts: dict[str, int] = {}
    for row in study.rows.to_dict("records"):
        suite, _, part = row["metric"].partition("/")
        if suite == "head_to_head" and part in PARTS:
            against = study.runs[row["run"]].config.get("baseline_name", "the baseline")
            label = f"{row['estimator']}\nagainst {against}\n({row['run']})"
            bars.setdefault(label, {})[part] = row["value"]
            counts[label] = row["n"]
    if not bars:
        asked = "influbench evaluate --suite head_to_head --baseline MODEL"
        raise nothing(study, "head_to_head shares", asked)
    with page(5.0, 0.9 + 0.55 * len(bars)) as figure:
        axes = figure.subplots()
        for place, (label, shares) in enumerate(bars.items()):
            left = 0.0
            for part, colour in PARTS.items():
                axes.barh(place, shares[part], left=left, color=colour, label=part)
                if shares[part] >= 5:
                    middle = left + shares[part] / 2
                    axes.text(middle, place, f"{shares[part]:.0f}", ha="center", va="center")
                left += shares[part]
            axes.text(101, place, f"n = {counts[label]}", va="center", fontsize=6)
        axes.set_yticks(range(len(bars)), list(bars), fontsize=6)
        axes.set_xlim(0, 100)
        axes.invert_yaxis()
        axes.set_xlabel("share of prompts (%)")
        handles, names = axes.get_legend_handles_labels()
        figure.legend(
            handles[: len(PARTS)], names[: len(PARTS)], ncols=3, loc="outside upper center"
        )
        return save(figure, out, NAME, caption(study, "both orders, disagreement = tie"))


if __name__ == "__main__":
    sys.exit(command(draw, "Win, tie and lose, as PDF and PNG."))
