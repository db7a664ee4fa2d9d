"""Root verbs of the instructions and their objects, as a sunburst (figure 6 of the paper).

Inner ring: the most common root verbs; outer ring: the four most common nouns that each takes.
Draws from ``outcomes``: ``root_verb``, one item a training example, whose category is ``verb noun``
(``verb`` alone where no noun was found):

    python paper_figs/fig_root_verbs.py results/teaching --out figures
"""

from __future__ import annotations

import math
import re
import sys
from collections import Counter
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.typing import ColorType
from scipy.stats import binomtest

from influbench.results import BASELINE, Study
from paper_figs.drawing import caption, command, nothing, page, save
from paper_figs.records import outcomes_by_arm

NAME = "fig_root_verbs"
METRIC = "root_verb"
RECORDED = "pip install 'influbench[words]' and influbench sweep experiments/quickstart.yaml"
VERBS = 12
NOUNS = 4
MOST = 3
SMALLEST = 4.5
"""Degrees below which a slice has no room for its word."""


def draw(study: Study, out: Path) -> list[Path]:
    """Draws the figure and writes ``fig_root_verbs.pdf`` and ``.png``.

    Args:
        study: with the root verbs of training data.
        out: folder of the files; made where it is missing.

    Raises:
        UserError: no such words.
    """
    found = {
        arm: [str(row["category"]) for rows in seeds.values() for row in rows]
        for arm, seeds in outcomes_by_arm(study, re.compile(METRIC)).items()
    }
    found = {arm: words for arm, words in found.items() if any(words)}
    if not found:
        wanted = "root verbs of the training data's instructions (root_verb)"
        raise nothing(study, wanted, RECORDED)
    arms = sorted(found, key=lambda arm: (arm != BASELINE, arm))[:MOST]
    notes: list[str] = []
    with page(3.4 * len(arms), 3.6) as figure:
        panels = figure.subplots(1, len(arms), squeeze=False, subplot_kw={"projection": "polar"})[0]
        for axes, arm in zip(panels, arms, strict=True):
            words = found[arm]
            notes += [f"{arm}: n = {len(words)} instructions", *_sunburst(axes, words)]
            axes.set_title(f"{arm} (n = {len(words)})", loc="center")
        text = caption(
            study,
            f"inner ring: the {VERBS} most common root verbs; outer ring: the {NOUNS} most common "
            "nouns of each, by their shares among these",
            "by a word list and its rules (textblob, pattern's lexicon), not a parser: the first "
            "verb of the instruction and the first noun after it; mistakes are common",
            *notes,
        )
        return save(figure, out, NAME, text)


def _sunburst(axes: Axes, words: list[str]) -> list[str]:
    """Draws the rings; the verbs' shares with their intervals, for the caption."""
    verbs = Counter(word.split()[0] for word in words if word).most_common(VERBS)
    total = sum(count for _, count in verbs)
    colours = matplotlib.color_sequences["tab20"]
    start, said = 0.0, []
    for i, (verb, count) in enumerate(verbs):
        width = 2 * math.pi * count / total
        _slice(axes, start, width, 0.35, verb, colours[(2 * i) % 20])
        low, high = binomtest(count, len(words)).proportion_ci(method="wilson")
        said.append(
            f"  {verb}: {100 * count / len(words):.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
        )
        nouns = Counter(
            word.split()[1] for word in words if word.split()[:1] == [verb] and " " in word
        ).most_common(NOUNS)
        place, shown = start, sum(times for _, times in nouns)
        for noun, times in nouns:
            part = width * times / shown
            _slice(axes, place, part, 0.75, noun, colours[(2 * i + 1) % 20])
            place += part
        start += width
    axes.set_axis_off()
    axes.set_ylim(0, 1.2)
    return said


def _slice(
    axes: Axes, start: float, width: float, inner: float, word: str, colour: ColorType
) -> None:
    axes.bar(
        start, 0.4, width=width, bottom=inner, align="edge", color=colour, edgecolor="white", lw=0.5
    )
    if math.degrees(width) < SMALLEST:
        return
    middle = start + width / 2
    turn = math.degrees(middle)
    axes.text(
        middle,
        inner + 0.2,
        word[:12],
        fontsize=4.5,
        ha="center",
        va="center",
        rotation_mode="anchor",
        rotation=turn if math.cos(middle) >= 0 else turn + 180,
    )


if __name__ == "__main__":
    sys.exit(command(draw, "Root verbs and their objects, as PDF and PNG."))
