"""What each quirk of the released code does to the ranking, the signs and the pairs.

One line a quirk against the corrected influence. Draws from the rows ``spearman``,
``sign_agreement`` and ``best_worst`` of the study ``paper_mode`` (``studies.paper_mode.Effect``):

    python paper_figs/fig_paper_mode.py results/paper_mode --out figures
"""

from __future__ import annotations

import sys
from pathlib import Path

from influbench.results import Study
from influbench.statistics.estimate import Estimate
from paper_figs.drawing import caption, command, forest, nothing, page, room, save
from paper_figs.records import Row, counts, estimate

NAME = "fig_paper_mode"
FAITHFUL = "corrected"
"""The influence without any quirk, the zero-gradient step taken off."""
MARK = "same_pairs"
"""A metric that only the study of the released code's quirks has."""
PANELS = {
    "spearman": "Spearman correlation",
    "sign_agreement": "same sign (share)",
    "best_worst": "same best-worst pair (share)",
}
"""What is drawn, and what it is called."""


def draw(study: Study, out: Path) -> list[Path]:
    """Draws the figure and writes ``fig_paper_mode.pdf`` and ``.png``.

    Args:
        study: each quirk's agreement with ``corrected``.
        out: folder of the files; made where it is missing.

    Raises:
        UserError: another study.
    """
    found: dict[str, dict[str, Estimate]] = {}
    used: list[Row] = []
    rows = study.estimates.to_dict("records")
    for row in rows:
        name, metric = str(row["label"]), str(row["metric"])
        if metric in PANELS and name != FAITHFUL:
            found.setdefault(name, {})[metric] = estimate(row)
            used.append(row)
    quirks = [name for name, numbers in found.items() if len(numbers) == len(PANELS)]
    if not quirks or all(row["metric"] != MARK for row in rows):
        wanted = "agreement with each quirk of the released code"
        raise nothing(study, wanted, "influbench sweep experiments/paper_mode.yaml")
    with page(7.0 + room(quirks), 0.8 + 0.22 * len(quirks)) as figure:
        panels = figure.subplots(1, len(PANELS), sharey=True)
        labels = [name.replace("_", " ") for name in quirks]
        for axes, (metric, title) in zip(panels, PANELS.items(), strict=True):
            forest(axes, labels, [found[name][metric] for name in quirks], 1.0)
            axes.set_xlabel(title)
        text = caption(
            study,
            f"{counts(used)}; intervals over seeds and groups of siblings",
            "against the corrected influence (no quirk, no pull of old momentum); grey: no effect",
            drawn=used,
        )
        return save(figure, out, NAME, text)


if __name__ == "__main__":
    sys.exit(command(draw, "Effects of the released code's quirks, as PDF and PNG."))
