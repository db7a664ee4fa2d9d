"""How the influence of what a teacher writes shifts as it is taught (figure 3c of the paper).

Draws from the outcomes ``midway/P/influence``: of candidates that the arm's teacher wrote after the
share P of its DPO steps. One outline a checkpoint, its mean with an interval over seed prompts
above:

    python paper_figs/fig_influence_shift.py results/teaching --out figures
"""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.colors import to_hex

from influbench.results import Study
from influbench.statistics.bootstrap import interval as bootstrap
from paper_figs.drawing import MARKERS, caption, command, interval, legend, nothing, page, save
from paper_figs.records import KEEPING, MIDWAY, bins_for, clusters, outcomes_by_arm

NAME = "fig_influence_shift"
INFLUENCE = re.compile(r"midway/[\d.]+/influence")
BINS = 25
"""At most."""


def draw(study: Study, out: Path) -> list[Path]:
    """Draws the figure and writes ``fig_influence_shift.pdf`` and ``.png``.

    Args:
        study: with the influence of candidates by teacher checkpoint.
        out: folder of the files; made where it is missing.

    Raises:
        UserError: no such scores.
    """
    found: dict[str, dict[float, dict[str, float]]] = {}
    groups: dict[str, str] = {}
    for name, seeds in outcomes_by_arm(study, INFLUENCE).items():
        for row in seeds[min(seeds)]:
            place = MIDWAY.fullmatch(str(row["metric"]))
            assert place
            stage = found.setdefault(name, {}).setdefault(float(place[1]), {})
            stage[str(row["item"])] = float(row["value"])
            groups[str(row["item"])] = str(row["category"])
    if not found:
        wanted = "influence by checkpoint of the teacher (midway/P/influence)"
        raise nothing(study, wanted, KEEPING)
    with page(3.5 * len(found), 2.9) as figure:
        panels = figure.subplots(1, len(found), squeeze=False)[0]
        for axes, (name, stages) in zip(panels, sorted(found.items()), strict=True):
            largest = max(abs(value) for stage in stages.values() for value in stage.values())
            power = math.floor(math.log10(max(largest, 1e-300)))
            values = {
                place: np.array([stage[item] for item in sorted(stage)]) / 10.0**power
                for place, stage in sorted(stages.items())
            }
            every = np.concatenate(list(values.values()))
            count = bins_for(min(map(len, values.values())), BINS)
            edges = np.linspace(every.min(), every.max(), count + 1)
            colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, len(stages)))
            top = max(np.histogram(own, edges, density=True)[0].max() for own in values.values())
            for i, (place, own) in enumerate(values.items()):
                items = sorted(stages[place])
                members, colour = clusters(items, groups), to_hex(colours[i])
                label = f"{place:g} (n = {len(items)})"
                axes.hist(own, edges, density=True, histtype="step", color=colour, label=label)
                mean = bootstrap(
                    np.arange(len(members)),
                    lambda drawn, v=own, at=members: float(
                        v[np.concatenate([at[j] for j in drawn])].mean()
                    ),
                    np.random.default_rng(0),
                )
                height = top * (1.06 + 0.06 * i)
                interval(axes, height, *mean.bounds, colour, across=True)
                axes.plot(mean.value, height, marker=MARKERS[i % len(MARKERS)], ms=3, color=colour)
            axes.axvline(0, color="0.6", linewidth=0.6)
            axes.set_xlabel(f"exact influence ($10^{{{power}}}$ nats/token)")
            axes.set_title(f"teacher of {name}")
        panels[0].set_ylabel("density")
        legend(figure, panels[0], 3)
        lines = (
            "by share of the teacher's DPO steps; above: the mean and its interval",
            "one seed",
        )
        return save(figure, out, NAME, caption(study, "n: candidates, in the legend", *lines))


if __name__ == "__main__":
    sys.exit(command(draw, "Influence by teacher checkpoint, as PDF and PNG."))
