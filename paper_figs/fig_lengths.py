"""How long the training data's instructions and responses are (figures 11 and 12 of the paper).

Draws from ``outcomes``: ``instruction_tokens`` and ``response_tokens``, one item a training
example, counted with the student's tokenizer:

    python paper_figs/fig_lengths.py results/teaching --out figures
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import matplotlib
import numpy as np

from influbench.results import Study
from influbench.statistics.bootstrap import interval as bootstrap
from paper_figs.drawing import caption, command, interval, legend, nothing, page, save
from paper_figs.records import bins_for, outcomes_by_arm

NAME = "fig_lengths"
TITLES = {"instruction_tokens": "instruction (tokens)", "response_tokens": "response (tokens)"}
BINS = 30
"""At most."""
MOST = 6


def draw(study: Study, out: Path) -> list[Path]:
    """Draws the figure and writes ``fig_lengths.pdf`` and ``.png``.

    Args:
        study: with the lengths of training data.
        out: folder of the files; made where it is missing.

    Raises:
        UserError: no such lengths.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for arm, seeds in outcomes_by_arm(study, re.compile("|".join(TITLES))).items():
        for row in (row for rows in seeds.values() for row in rows):
            lengths = found.setdefault(str(row["metric"]), {}).setdefault(arm, [])
            lengths.append(float(row["value"]))
    if not found:
        wanted = "lengths of the training data (instruction_tokens, response_tokens)"
        raise nothing(study, wanted, "influbench sweep experiments/quickstart.yaml")
    metrics = [metric for metric in TITLES if metric in found]
    sizes: list[str] = []
    with page(3.4 * len(metrics), 2.8) as figure:
        panels = figure.subplots(1, len(metrics), squeeze=False)[0]
        colours = matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]
        for axes, metric in zip(panels, metrics, strict=True):
            values = {arm: np.array(found[metric][arm]) for arm in sorted(found[metric])[:MOST]}
            longest = float(np.quantile(np.concatenate(list(values.values())), 0.99))
            fewest = min(map(len, values.values()))
            edges = np.linspace(0, longest + 1, bins_for(fewest, BINS) + 1)
            tops = [np.histogram(v, edges, density=True)[0].max() for v in values.values()]
            for i, (arm, lengths) in enumerate(values.items()):
                style = ("-", "--", ":")[i % 3]
                axes.hist(
                    lengths, edges, density=True, histtype="step", color=colours[i], ls=style,
                    label=arm,
                )  # fmt: skip
                mean = bootstrap(lengths, lambda v: float(v.mean()), np.random.default_rng(0))
                height = max(tops) * (1.06 + 0.06 * i)
                interval(axes, height, *mean.bounds, colours[i], across=True)
                axes.plot(mean.value, height, marker="o", ms=2.5, color=colours[i])
                sizes.append(f"{arm}, {metric}: n = {len(lengths)}, mean {mean.value:.1f}")
            axes.set_xlabel(TITLES[metric])
        panels[0].set_ylabel("density")
        legend(figure, panels[0])
        lines = ("above: the mean and its interval; the longest 1 % lie outside", *sizes)
        return save(figure, out, NAME, caption(study, *lines))


if __name__ == "__main__":
    sys.exit(command(draw, "Lengths of the training data, as PDF and PNG."))
