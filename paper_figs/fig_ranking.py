"""Which methods agree with the exact influence, where, and for how many passes of the student.

One line a method, the best first by its mean over the places (students, references, warm-ups); one
panel a place, and one of costs. Reads ``results/<study>`` and nothing else:

    python paper_figs/fig_ranking.py results/agreement --out figures
"""

from __future__ import annotations

import sys
from itertools import starmap
from pathlib import Path
from statistics import fmean

from influbench.results import CEILING, Study
from influbench.results.axes import telling
from influbench.results.headline import headline
from influbench.statistics.estimate import Estimate
from paper_figs.drawing import QUIET, caption, command, forest, nothing, page, room, save
from paper_figs.panels import ORACLE
from paper_figs.records import Row, counts, estimate

NAME = "fig_ranking"
METRIC, COST = "spearman", "passes_per_candidate"
LEAST = 3
"""Methods below which a table says it better."""


def draw(study: Study, out: Path) -> list[Path]:
    """Draws the figure and writes ``fig_ranking.pdf`` and ``.png``.

    Args:
        study: with ``spearman`` of three methods or more, and passes per candidate.
        out: folder of the files; made where it is missing.

    Raises:
        UserError: the study holds fewer.
    """
    places = _places(study, METRIC)
    # Passes depend on the references; all are shown, so that a row is never cheaper than it says.
    costs = _places(study, COST)
    names = sorted(
        {name for rows in places.values() for name in rows},
        key=lambda name: (-fmean(r[name]["value"] for r in places.values() if name in r), name),
    )
    silent = sorted({name for rows in costs.values() for name in rows} - {ORACLE, *names})
    if len(names) < LEAST or not costs:
        raise nothing(study, f"{LEAST} methods with {METRIC} and {COST}", "influbench sweep")
    width = 1.3 + room(names) + 1.35 * (len(places) + 1)
    with page(width, 0.8 + 0.17 * len(names)) as figure:
        panels = figure.subplots(1, len(places) + 1, sharey=True, squeeze=False)[0]
        for axes, (place, rows) in zip(panels, places.items(), strict=False):
            forest(axes, names, [_number(rows.get(name)) for name in names], 0.0)
            axes.set_xlim(-1.05, 1.05)
            axes.set_xticks([-1, 0, 1])
            axes.set_title(place, fontsize=6)
        panels[0].set_xlabel("Spearman correlation\nwith exact")
        for place, name in enumerate(names):
            passes = [rows[name]["value"] for rows in costs.values() if name in rows]
            panels[-1].barh(place, max(passes, default=0.0), height=0.6, color="0.6")
        oracle = [rows[ORACLE]["value"] for rows in costs.values() if ORACLE in rows]
        if oracle:
            panels[-1].axvline(max(oracle), color=QUIET, linestyle="--", linewidth=0.8)
            panels[-1].set_title(f"dashed: {ORACLE}", fontsize=6)
        panels[-1].set_xlabel("passes of a model\nper candidate")
        drawn = [row for rows in places.values() for row in rows.values()]
        text = caption(
            study,
            counts(drawn),
            "best first by the mean over the panels",
            "passes: of the student or a local judge, a backward counts two",
            *([f"without a correlation: {', '.join(silent)}"] if silent else []),
            drawn=drawn,
        )
        return save(figure, out, NAME, text)


def _places(study: Study, metric: str) -> dict[str, dict[str, Row]]:
    """Place on the axes that change the metric -> method -> its number there, over seeds."""
    rows = study.rows.loc[(study.rows["metric"] == metric) & (study.rows["estimator"] != CEILING)]
    told = [((r["estimator"], r["seed"]), r, r["value"]) for r in rows.to_dict("records")]
    axes = telling(told, study.axes)
    found: dict[str, dict[str, Row]] = {}
    for place, part in rows.groupby(axes, sort=False, dropna=False) if axes else [((), rows)]:
        title = "\n".join(starmap(_told, zip(axes, place, strict=True)))
        numbers = headline(part).to_dict("records")
        found[title] = {str(row["estimator"]): row for row in numbers}
    return found


def _told(axis: str, value: object) -> str:
    """A setting in a title; of a name, the name alone."""
    last = axis.rpartition(".")[2]
    return str(value) if last == "name" else f"{last}={value}"


def _number(row: Row | None) -> Estimate | None:
    return None if row is None else estimate(row)


if __name__ == "__main__":
    sys.exit(command(draw, "Agreement of every method in every place, as PDF and PNG."))
