"""Are the gaps between siblings larger than what rounding alone makes?

The cumulative share of the gaps between two neighbours in the oracle's order of a seed prompt's
siblings, and of best minus worst, against the measured noise floor and the median standard error of
a score. Draws from ``scores`` of ``exact`` and the row ``noise_floor``:

    python paper_figs/fig_noise_floor.py results/agreement --out figures
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from influbench.results import Study
from paper_figs.drawing import QUIET, caption, command, nothing, page, save

NAME = "fig_noise_floor"
ORACLE = "exact"


def draw(study: Study, out: Path) -> list[Path]:
    """Draws the figure and writes ``fig_noise_floor.pdf`` and ``.png``.

    Args:
        study: with scores of the oracle in groups and its noise floor.
        out: folder of the files; made where it is missing.

    Raises:
        UserError: no such numbers.
    """
    scores = [row for row in study.scores.to_dict("records") if row["estimator"] == ORACLE]
    floors = [row for row in study.rows.to_dict("records") if row["metric"] == "noise_floor"]
    if not scores or not floors:
        raise nothing(study, "scores of exact and its noise floor", "influbench sweep")
    scores = [row for row in scores if row["run"] == scores[0]["run"]]
    groups: dict[str, list[float]] = {}
    for row in scores:
        groups.setdefault(row["group"], []).append(float(row["value"]))
    ordered = [np.sort(values) for values in groups.values() if len(values) > 1]
    if not ordered:
        raise nothing(study, "two candidates or more a seed prompt", "influbench sweep")
    between = np.concatenate([np.diff(values) for values in ordered])
    widest = np.array([values[-1] - values[0] for values in ordered])
    floor = float(floors[0]["value"])
    stderr = float(np.median([row["stderr"] for row in scores]))
    with page(3.5, 2.7) as figure:
        axes = figure.subplots()
        axes.set_xscale("log")
        for name, gaps, (colour, line) in (
            ("neighbours", between, ("#0072B2", "-")),
            ("best and worst", widest, ("#D55E00", "--")),
        ):
            x = np.sort(np.maximum(gaps, np.finfo(float).tiny))
            share = np.arange(1, len(x) + 1) / len(x)
            # Dvoretzky-Kiefer-Wolfowitz: the whole curve lies in this band in 95 of 100 studies.
            reach = np.sqrt(np.log(2 / 0.05) / (2 * len(x)))
            low, high = np.maximum(share - reach, 0), np.minimum(share + reach, 1)
            axes.fill_between(x, low, high, step="post", color=colour, alpha=0.12, lw=0)
            label = f"{name} (n = {len(x)})"
            axes.step(x, share, where="post", label=label, color=colour, linestyle=line)
        if floor > 0:
            axes.axvline(floor, color=QUIET, linewidth=0.9, label="noise floor")
        if stderr > 0:
            label = "standard error of a score (median)"
            axes.axvline(stderr, color=QUIET, linewidth=0.9, linestyle=":", label=label)
        axes.set_xlabel("gap between two siblings' influence (nats/token)")
        axes.set_ylabel("share of gaps below")
        axes.set_ylim(0, 1)
        figure.legend(loc="outside upper left", ncols=2, fontsize=6.5)
        text = caption(
            study,
            f"n = {len(between)} gaps of neighbours, {len(widest)} seed prompts, one seed",
            f"noise floor {floor:.3g} nats/token; band: 95 % for the whole curve (DKW)",
        )
        return save(figure, out, NAME, text)


if __name__ == "__main__":
    sys.exit(command(draw, "Gaps between siblings against the noise floor, as PDF and PNG."))
