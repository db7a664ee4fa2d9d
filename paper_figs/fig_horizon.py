"""How far a score agrees with the influence of more than one step.

Draws from the rows ``horizon_K/spearman``, K steps of the student:

    python paper_figs/fig_horizon.py results/horizon --out figures
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from influbench.results import Study
from influbench.statistics.estimate import Estimate
from paper_figs.drawing import Curve, caption, command, curves, legend, nothing, page, save
from paper_figs.records import Row, counts, estimate

NAME = "fig_horizon"
STEPS = re.compile(r"horizon_(\d+)/spearman")


def draw(study: Study, out: Path) -> list[Path]:
    """Draws the figure and writes ``fig_horizon.pdf`` and ``.png``.

    Args:
        study: with agreement by number of steps.
        out: folder of the files; made where it is missing.

    Raises:
        UserError: no such numbers.
    """
    found: dict[str, dict[float, Estimate]] = {}
    used: list[Row] = []
    for row in study.estimates.to_dict("records"):
        if steps := STEPS.fullmatch(str(row["metric"])):
            found.setdefault(str(row["label"]), {})[float(steps[1])] = estimate(row)
            used.append(row)
    if not found:
        wanted = "agreement with the influence of K steps (horizon_K/spearman)"
        raise nothing(study, wanted, "influbench sweep experiments/horizon.yaml")
    with page(4.4, 2.9) as figure:
        axes = figure.subplots()
        axes.set_xscale("log", base=2)
        shown: dict[str, Curve] = dict(sorted(found.items()))
        curves(axes, shown)
        steps_seen = sorted({x for curve in found.values() for x in curve})
        axes.set_xticks(steps_seen, [f"{x:g}" for x in steps_seen])
        axes.set_xlabel("optimizer steps of the student, K")
        axes.set_ylabel("Spearman correlation with\nthe influence after K steps")
        legend(figure, axes, 3)
        return save(figure, out, NAME, caption(study, counts(used), drawn=used))


if __name__ == "__main__":
    sys.exit(command(draw, "Agreement by number of steps, as PDF and PNG."))
