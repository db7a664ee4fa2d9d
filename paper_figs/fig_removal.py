"""Does training on what a method ranks high help, and on what it ranks low harm?

Draws from the rows ``removal_P/heldout_loss`` and ``addition_P/heldout_loss`` (the student without
the top P % of the training data, or with them only); from ``gain_bottom``, ``gain_middle`` and
``gain_top`` where a study trained on thirds:

    python paper_figs/fig_removal.py results/prediction --out figures
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from influbench.results import Study
from influbench.statistics.estimate import Estimate
from paper_figs.drawing import Curve, caption, command, curves, legend, nothing, page, save
from paper_figs.records import Row, counts, estimate

NAME = "fig_removal"
THIRDS = {"gain_bottom": 0.0, "gain_middle": 1.0, "gain_top": 2.0}
STEP = re.compile(r"(removal|addition)_(\d+(?:\.\d+)?)/heldout_loss")
TITLES = {
    "removal": ("top share left out (%)", "held-out loss (nats/token)"),
    "addition": ("top share trained on (%)", "held-out loss (nats/token)"),
    "thirds": ("third of the candidates by score", "gain of held-out loss (nats/token)"),
}


def draw(study: Study, out: Path) -> list[Path]:
    """Draws the figure and writes ``fig_removal.pdf`` and ``.png``.

    Args:
        study: that trained students on parts of its candidates.
        out: folder of the files; made where it is missing.

    Raises:
        UserError: no such students.
    """
    panels: dict[str, dict[str, dict[float, Estimate]]] = {}
    used: list[Row] = []
    for row in study.estimates.to_dict("records"):
        metric, step = str(row["metric"]), STEP.fullmatch(str(row["metric"]))
        if metric in THIRDS:
            kind, place = "thirds", THIRDS[metric]
        elif step:
            kind, place = step[1], float(step[2])
        else:
            continue
        panels.setdefault(kind, {}).setdefault(str(row["label"]), {})[place] = estimate(row)
        used.append(row)
    if not panels:
        wanted = "students trained on parts of the candidates (gain_top, removal_P/heldout_loss)"
        raise nothing(study, wanted, "influbench sweep experiments/prediction.yaml")
    with page(0.6 + 3.4 * len(panels), 2.9) as figure:
        places = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, kind in zip(places, sorted(panels), strict=True):
            found: dict[str, Curve] = dict(sorted(panels[kind].items()))
            curves(axes, found)
            across, up = TITLES[kind]
            axes.set_xlabel(across)
            axes.set_ylabel(up)
            if kind == "thirds":
                axes.set_xticks(list(THIRDS.values()), ["bottom", "middle", "top"])
        legend(figure, places[0])
        text = caption(study, f"{counts(used)} trainings a point", drawn=used)
        return save(figure, out, NAME, text)


if __name__ == "__main__":
    sys.exit(command(draw, "Students of parts of the data, as PDF and PNG."))
