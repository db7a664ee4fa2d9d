"""How the scores of each method with a zero are distributed, and how many are positive.

Draws from ``scores``; methods on another scale (a judge's grades, lengths) are left out, since a
positive score means nothing there:

    python paper_figs/fig_influence_histogram.py results/agreement --out figures
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np

from influbench.results import Study
from influbench.statistics.bootstrap import interval
from paper_figs.drawing import caption, command, nothing, page, save
from paper_figs.records import bins_for, clusters, groups_of, scores_by_seed

NAME = "fig_influence_histogram"
SIGNED = ("exact", "first_order", "adam_jvp", "gradient_dot", "less", "trak")
"""Those whose zero means "as if the example had not been learnt", the oracle first."""
MOST = 4
BINS = 24
"""At most."""


def draw(study: Study, out: Path) -> list[Path]:
    """Draws the figure and writes ``fig_influence_histogram.pdf`` and ``.png``.

    Args:
        study: with scores of the exact influence or of an estimate of it.
        out: folder of the files; made where it is missing.

    Raises:
        UserError: no such scores.
    """
    seeds = scores_by_seed(study)
    found = next(iter(seeds.values()), {})
    names = [name for name in SIGNED if name in found][:MOST]
    if not names:
        wanted = "scores of exact, first_order or another signed method"
        raise nothing(study, wanted, "influbench sweep")
    groups, notes = groups_of(study), []
    with page(1.9 * max(len(names), 2), 2.1) as figure:
        panels = figure.subplots(1, len(names), squeeze=False)[0]
        for axes, name in zip(panels, names, strict=True):
            items = sorted(found[name])
            values = np.array([found[name][item] for item in items])
            power = math.floor(math.log10(max(np.abs(values).max(), 1e-300)))
            bins = bins_for(len(values), BINS)
            axes.hist(values / 10.0**power, bins=bins, color="#56B4E9", edgecolor="white", lw=0.3)
            axes.axvline(0, color="0.35", linewidth=0.8)
            positive = values > 0
            drawn_from = clusters(items, groups)
            share = interval(
                np.arange(len(drawn_from)),
                lambda drawn, at=drawn_from, up=positive: float(
                    up[np.concatenate([at[i] for i in drawn])].mean()
                ),
                np.random.default_rng(0),
            )
            low, high = (100 * bound for bound in share.bounds)
            axes.set_title(f"{name}\n{100 * share.value:.0f} % > 0 [{low:.0f}, {high:.0f}]")
            axes.set_xlabel(f"score ($10^{{{power}}}$)")
            notes.append(f"{name}: n = {len(items)} candidates")
        panels[0].set_ylabel("candidates")
        lines = ["share of positive scores with its interval over groups", *notes]
        return save(figure, out, NAME, caption(study, f"seed {next(iter(seeds))} only", *lines))


if __name__ == "__main__":
    sys.exit(command(draw, "The distribution of scores, as PDF and PNG."))
