"""How the influence of what a teacher writes shifts as it is taught (figure 3c of the paper).

Draws from ``scores`` of ``NAME@P``: of candidates that the teacher wrote after the share P of its
DPO steps. One outline a checkpoint, its mean with an interval over seed prompts above:

    python paper_figs/fig_influence_shift.py results/teaching --out figures
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.colors import to_hex

from influbench.results import Study
from influbench.statistics.bootstrap import interval as bootstrap
from paper_figs.drawing import MARKERS, caption, command, interval, legend, nothing, page, save
from paper_figs.records import CHECKPOINT, clusters, groups_of, parted, scores_by_seed

NAME = "fig_influence_shift"
BINS = 25


def draw(study: Study, out: Path) -> list[Path]:
    """Draws the figure and writes ``fig_influence_shift.pdf`` and ``.png``.

    Args:
        study: with scores of candidates by teacher checkpoint.
        out: folder of the files; made where it is missing.

    Raises:
        UserError: no such scores.
    """
    found: dict[str, dict[float, dict[str, float]]] = {}
    for name, scores in next(iter(scores_by_seed(study).values()), {}).items():
        if place := parted(name, CHECKPOINT):
            found.setdefault(place[0], {})[place[1]] = scores
    if not found:
        wanted = "scores of the teacher's checkpoints (NAME@P)"
        raise nothing(study, wanted, None)
    groups = groups_of(study)
    with page(3.5 * len(found), 2.9) as figure:
        panels = figure.subplots(1, len(found), squeeze=False)[0]
        for axes, (name, stages) in zip(panels, sorted(found.items()), strict=True):
            every = np.concatenate([list(scores.values()) for scores in stages.values()])
            edges = np.linspace(every.min(), every.max(), BINS + 1)
            colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, len(stages)))
            tops = [
                np.histogram(list(stages[place].values()), edges, density=True)[0].max()
                for place in stages
            ]
            top = max(tops)
            for i, place in enumerate(sorted(stages)):
                items = sorted(stages[place])
                values = np.array([stages[place][item] for item in items])
                members, colour = clusters(items, groups), to_hex(colours[i])
                label = f"{place:g} (n = {len(items)})"
                axes.hist(values, edges, density=True, histtype="step", color=colour, label=label)
                mean = bootstrap(
                    np.arange(len(members)),
                    lambda drawn, v=values, at=members: float(
                        v[np.concatenate([at[j] for j in drawn])].mean()
                    ),
                    np.random.default_rng(0),
                )
                height = top * (1.06 + 0.06 * i)
                interval(axes, height, *mean.bounds, colour, across=True)
                axes.plot(mean.value, height, marker=MARKERS[i % len(MARKERS)], ms=3, color=colour)
            axes.axvline(0, color="0.6", linewidth=0.6)
            axes.set_xlabel(f"influence by {name} (nats/token)")
        panels[0].set_ylabel("density")
        legend(figure, panels[0], 3)
        lines = (
            "by share of the teacher's DPO steps; above: the mean and its interval",
            "one seed",
        )
        return save(figure, out, NAME, caption(study, "n: candidates, in the legend", *lines))


if __name__ == "__main__":
    sys.exit(command(draw, "Influence by teacher checkpoint, as PDF and PNG."))
