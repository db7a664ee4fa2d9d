"""Win, tie and lose against a baseline (figure 4 of the paper), one bar a student and round.

Draws from the rows ``head_to_head/win``, ``tie`` and ``lose``; several rounds of one student stand
under one another:

    python paper_figs/fig_head_to_head.py results/evaluate --out figures
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

from influbench.results import Study
from paper_figs.drawing import caption, command, nothing, page, save
from paper_figs.records import Row, counts

NAME = "fig_head_to_head"
PARTS = {"win": "#56B4E9", "tie": "#D9D9D9", "lose": "#E69F00"}


def draw(study: Study, out: Path) -> list[Path]:
    """Draws the figure and writes ``fig_head_to_head.pdf`` and ``.png``.

    Args:
        study: with ``head_to_head/win``, ``tie`` and ``lose``.
        out: folder of the two files; made where it is missing.

    Raises:
        UserError: nothing was compared head to head.
    """
    bars: dict[str, dict[str, Row]] = {}
    several = len(set(study.rows["round"])) > 1
    for row in study.rows.to_dict("records"):
        suite, _, part = str(row["metric"]).partition("/")
        if suite == "head_to_head" and part in PARTS:
            against = study.runs[str(row["run"])].config.get("baseline_name", "the baseline")
            turn = f", round {row['round']}" if several else ""
            label = f"{row['estimator']}{turn}\nagainst {against}\n({row['run']})"
            bars.setdefault(label, {})[part] = row
    bars = {label: bar for label, bar in bars.items() if len(bar) == len(PARTS)}
    if not bars:
        asked = "influbench evaluate --suite head_to_head --baseline MODEL"
        raise nothing(study, "head_to_head shares", asked)
    with page(5.0, 0.9 + 0.55 * len(bars)) as figure:
        axes = figure.subplots()
        for place, bar in enumerate(bars.values()):
            left = 0.0
            for part, colour in PARTS.items():
                value = float(bar[part]["value"])
                axes.barh(place, value, left=left, color=colour, label=part, height=0.6)
                if value >= 5:
                    axes.text(left + value / 2, place, f"{value:.0f}", ha="center", va="center")
                left += value
            low, high = float(bar["win"]["low"]), float(bar["win"]["high"])
            if not math.isnan(low):
                axes.hlines(place + 0.2, low, high, color="black", linewidth=0.9)
            count = bar["win"]["n"]
            axes.text(101, place, f"n = {count}", va="center", fontsize=6)
        axes.set_yticks(range(len(bars)), list(bars), fontsize=6)
        axes.set_xlim(0, 100)
        axes.invert_yaxis()
        axes.set_xlabel("share of prompts (%)")
        handles, names = axes.get_legend_handles_labels()
        figure.legend(
            handles[: len(PARTS)], names[: len(PARTS)], ncols=3, loc="outside upper center"
        )
        text = caption(
            study,
            f"{counts(bar['win'] for bar in bars.values())} prompts",
            "both orders, disagreement = tie; black: the interval of the share won",
        )
        return save(figure, out, NAME, text)


if __name__ == "__main__":
    sys.exit(command(draw, "Win, tie and lose, as PDF and PNG."))
