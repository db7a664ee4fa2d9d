"""Which methods rank the candidates alike: Spearman correlation of every two.

Below the diagonal the correlation, above it half the width of its 95 % interval (bootstrap over
groups of siblings; over seeds where there are several). Draws from ``scores``:

    python paper_figs/fig_agreement_matrix.py results/agreement --out figures
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from influbench.results import Study
from influbench.statistics.estimate import Estimate
from influbench.statistics.seeds import over_seeds
from paper_figs.drawing import caption, command, nothing, page, room, save
from paper_figs.records import clusters, groups_of, scores_by_seed

NAME = "fig_agreement_matrix"
RESAMPLES = 500


def draw(study: Study, out: Path) -> list[Path]:
    """Draws the figure and writes ``fig_agreement_matrix.pdf`` and ``.png``.

    Args:
        study: with the scores of two methods or more about the same candidates.
        out: folder of the files; made where it is missing.

    Raises:
        UserError: fewer than two methods.
    """
    seeds = list(scores_by_seed(study).values())
    names = _ordered(sorted(set.intersection(*(set(found) for found in seeds)) if seeds else set()))
    if len(names) < 2:
        raise nothing(study, "scores of two methods or more", "influbench sweep")
    groups = groups_of(study)
    tables = [_bootstrapped([found[name] for name in names], groups) for found in seeds]
    value, half = np.eye(len(names)), np.zeros((len(names), len(names)))
    for i in range(len(names)):
        for j in range(i):
            mean = over_seeds([table[i, j] for table in tables], (-1.0, 1.0))
            low, high = mean.bounds
            value[i, j], half[i, j] = mean.value, (high - low) / 2
    side = 1.3 + room(names) + 0.27 * len(names)
    with page(side + 0.6, side) as figure:
        axes = figure.subplots()
        shown = np.where(np.tri(len(names), k=-1), value, np.nan)
        image = axes.imshow(shown, cmap="PuOr", vmin=-1, vmax=1)
        axes.grid(visible=False)
        for i in range(len(names)):
            for j in range(i):
                ink = "white" if abs(value[i, j]) > 0.7 else "black"
                text = f"{round(value[i, j], 2) + 0.0:.2f}".replace("0.", ".")
                axes.text(j, i, text, ha="center", va="center", fontsize=4.5, color=ink)
                if not np.isnan(half[i, j]):
                    width = f"{half[i, j]:.2f}".replace("0.", ".")
                    axes.text(i, j, width, ha="center", va="center", fontsize=4.5, color="0.35")
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
        axes.set_yticks(range(len(names)), names, fontsize=6)
        bar = figure.colorbar(image, shrink=0.6)
        bar.set_label("Spearman correlation")
        count = max(len(found[names[0]]) for found in seeds)
        text = caption(
            study,
            f"n = {count} candidates a seed, {RESAMPLES} resamples of groups",
            "below the diagonal: Spearman; above: half the width of its 95 % interval",
        )
        return save(figure, out, NAME, text)


def _ordered(names: Sequence[str]) -> list[str]:
    """The oracle first."""
    return sorted(names, key=lambda name: (name != "exact", name))


def _bootstrapped(scores: Sequence[dict[str, float]], groups: dict[str, str]) -> np.ndarray:
    """Estimates of shape [method, method]; only the part below the diagonal is filled."""
    items = sorted(set.intersection(*(set(found) for found in scores)))
    values = np.array([[found[item] for item in items] for found in scores])
    drawn_from = clusters(items, groups)
    rng = np.random.default_rng(0)
    value = _spearman(values)
    draws = np.stack(
        [
            _spearman(values[:, np.concatenate([drawn_from[i] for i in drawn])])
            for drawn in rng.integers(len(drawn_from), size=(RESAMPLES, len(drawn_from)))
        ]
    )
    low, high = np.nanquantile(draws, [0.025, 0.975], axis=0)
    count = len(values)
    table = np.empty((count, count), dtype=object)
    for i in range(count):
        for j in range(i):
            table[i, j] = Estimate(
                value=float(value[i, j]), low=float(low[i, j]), high=float(high[i, j]), n=len(items)
            )
    return table


def _spearman(values: np.ndarray) -> np.ndarray:
    """Of the rows of [method, candidate]; 0 with a method that gives all the same."""
    ranks = rankdata(values, axis=1)
    ranks -= ranks.mean(axis=1, keepdims=True)
    norm = np.sqrt((ranks**2).sum(axis=1))
    return ranks @ ranks.T / np.maximum(np.outer(norm, norm), 1e-12)


if __name__ == "__main__":
    sys.exit(command(draw, "How alike the methods rank the candidates, as PDF and PNG."))
