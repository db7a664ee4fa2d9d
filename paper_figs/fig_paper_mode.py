"""What each quirk of the released code does to the ranking, the signs and the pairs.

One line a quirk against the corrected influence. Draws from ``scores`` of the study
``paper_mode`` (Spearman, same sign, same best-worst pair; intervals by resampling groups):

    python paper_figs/fig_paper_mode.py results/paper_mode --out figures
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from influbench.results import Study
from influbench.statistics.agreement import spearman
from influbench.statistics.bootstrap import interval
from influbench.statistics.estimate import Estimate
from influbench.statistics.seeds import over_seeds
from paper_figs.drawing import caption, command, forest, nothing, page, room, save
from paper_figs.records import clusters, groups_of, scores_by_seed

NAME = "fig_paper_mode"
FAITHFUL = "corrected"
"""The influence without any quirk, the zero-gradient step taken off."""
MARK = "same_pairs"
"""A metric that only the study of the released code's quirks has."""
PANELS = {
    "Spearman correlation": (-1.0, 1.0),
    "same sign (share)": (0.0, 1.0),
    "same best-worst pair (share)": (0.0, 1.0),
}
"""What is drawn, and the values that it can have."""


def draw(study: Study, out: Path) -> list[Path]:
    """Draws the figure and writes ``fig_paper_mode.pdf`` and ``.png``.

    Args:
        study: the quirks' scores beside those of ``corrected``.
        out: folder of the files; made where it is missing.

    Raises:
        UserError: another study.
    """
    seeds = [found for found in scores_by_seed(study).values() if FAITHFUL in found]
    if MARK not in set(study.rows["metric"]) or not seeds:
        wanted = "scores with each quirk of the released code"
        raise nothing(study, wanted, "influbench sweep experiments/paper_mode.yaml")
    quirks = [name for name in seeds[0] if name != FAITHFUL and all(name in s for s in seeds)]
    groups = groups_of(study)
    numbers = [
        [
            over_seeds(several, within)
            for several, within in zip(
                zip(*(_against(s[FAITHFUL], s[name], groups) for s in seeds), strict=True),
                PANELS.values(),
                strict=True,
            )
        ]
        for name in quirks
    ]
    with page(7.0 + room(quirks), 0.8 + 0.22 * len(quirks)) as figure:
        panels = figure.subplots(1, len(PANELS), sharey=True)
        for place, (axes, title) in enumerate(zip(panels, PANELS, strict=True)):
            names = [name.replace("_", " ") for name in quirks]
            forest(axes, names, [number[place] for number in numbers], 1.0)
            axes.set_xlabel(title)
        count = max(len(found[FAITHFUL]) for found in seeds)
        prompts = max(len({groups[item] for item in found[FAITHFUL]}) for found in seeds)
        over = (
            "one seed: intervals over its seed prompts"
            if len(seeds) == 1
            else f"means of {len(seeds)} seeds; intervals over seeds and their seed prompts"
        )
        text = caption(
            study,
            f"n = {count} candidates of {prompts} seed prompts a seed; {over}",
            "against the corrected influence (no quirk, no pull of old momentum); grey: no effect",
        )
        return save(figure, out, NAME, text)


def _against(
    faithful: dict[str, float], quirk: dict[str, float], groups: dict[str, str]
) -> list[Estimate]:
    items = sorted(faithful)
    x, y = (np.array([scores[item] for item in items]) for scores in (faithful, quirk))
    members = clusters(items, groups)

    def whole(function: Callable[[np.ndarray], float]) -> Callable[[np.ndarray], float]:
        return lambda drawn: float(function(np.concatenate([members[i] for i in drawn])))

    def same_pair(drawn: np.ndarray) -> float:
        kept = [members[i] for i in drawn if len(members[i]) > 1]
        same = [
            (x[rows].argmax(), x[rows].argmin()) == (y[rows].argmax(), y[rows].argmin())
            for rows in kept
        ]
        return float(np.mean(same)) if same else float("nan")

    statistics = (
        whole(lambda rows: spearman(x[rows], y[rows])),
        whole(lambda rows: ((x[rows] > 0) == (y[rows] > 0)).mean()),
        same_pair,
    )
    numbers = np.arange(len(members))
    return [interval(numbers, function, np.random.default_rng(0)) for function in statistics]


if __name__ == "__main__":
    sys.exit(command(draw, "Effects of the released code's quirks, as PDF and PNG."))
