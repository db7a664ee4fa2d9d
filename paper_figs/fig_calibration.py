"""Does the adaptive oracle err as often as it says, and what does that save?

Left: share of groups with another best-worst pair against the mean probability that it stated when
it stopped. Right: reference passes saved, preparation included, by the confidence asked for. Reads
``results/<study>`` and nothing else:

    python paper_figs/fig_calibration.py results/adaptive_oracle --out figures
"""

from __future__ import annotations

import sys
from pathlib import Path

from matplotlib.axes import Axes

from influbench.results import Study
from paper_figs.drawing import caption, command, legend, nothing, page, save

NAME = "fig_calibration"
LOOKS = {
    "real": ("#D55E00", "o", "seed prompts"),
    "drawn": ("#0072B2", "s", "drawn groups"),
    "close": ("#009E73", "D", "groups of neighbours"),
    "pairs": ("#CC79A7", "^", "pairs of neighbours"),
}
Numbers = dict[float, dict[str, tuple[float, float, int]]]
"""By confidence, then metric: value, standard error, number of groups."""


def draw(study: Study, out: Path) -> list[Path]:
    """Draws the figure and writes ``fig_calibration.pdf`` and ``.png``.

    Args:
        study: with ``error_rate_KIND``, ``stated_error_rate_KIND`` and ``saving_KIND`` by
            confidence.
        out: folder of the two files; made where it is missing.

    Raises:
        UserError: the study has no such numbers.
    """
    found: Numbers = {}
    for row in study.rows.to_dict("records"):
        name, _, confidence = str(row["estimator"]).partition("@")
        if name == "adaptive" and confidence:
            number = (float(row["value"]), float(row["stderr"] or 0.0), int(row["n"]))
            found.setdefault(float(confidence), {})[row["metric"]] = number
    if not found:
        wanted = "error rates of the adaptive oracle"
        raise nothing(study, wanted, "influbench sweep experiments/adaptive_oracle.yaml")
    with page(5.5, 2.6) as figure:
        left, right = figure.subplots(1, 2)
        _errors(left, found)
        _savings(right, found)
        legend(figure, left, 3)
        return save(
            figure,
            out,
            NAME,
            caption(study, "n = groups, in the legend", "left: as stated on the line"),
        )


def _errors(axes: Axes, found: Numbers) -> None:
    top = 0.0
    for kind, (colour, marker, label) in LOOKS.items():
        points = [
            (n[f"stated_error_rate_{kind}"][0], n[f"error_rate_{kind}"]) for n in found.values()
        ]
        x, y = [stated for stated, _ in points], [rate[0] for _, rate in points]
        # Where no group went wrong the rule of three bounds the rate from above at 95 %.
        reach = [1.96 * se if rate else 3 / count for _, (rate, se, count) in points]
        top = max(top, *x, *(a + b for a, b in zip(y, reach, strict=True)))
        shown = f"{label} (n = {points[0][1][2]})"
        low = [min(a, b) for a, b in zip(y, reach, strict=True)]
        axes.errorbar(x, y, yerr=[low, reach], fmt=marker, color=colour, label=shown, ms=3, lw=0.8)
    axes.plot([0, top], [0, top], color="0.6", lw=0.8, ls="--", label="as stated")
    axes.set_xlabel("stated chance of another best-worst pair")
    axes.set_ylabel("share of groups with one")


def _savings(axes: Axes, found: Numbers) -> None:
    order = sorted(found)
    places = list(range(len(order)))
    for kind, (colour, marker, _) in LOOKS.items():
        savings = [found[c][f"saving_{kind}"][0] for c in order]
        axes.plot(places, savings, color=colour, marker=marker, ms=3, lw=0.8)
    axes.set_xticks(places, [f"{c:g}" for c in order])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("confidence asked for")
    axes.set_ylabel("times fewer reference passes")


if __name__ == "__main__":
    sys.exit(command(draw, "Calibration of the adaptive oracle, as PDF and PNG."))
