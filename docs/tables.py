"""Fills the numbers of a page from ``results/``: ``python docs/tables.py`` (or ``--check``).

A page says where they stand, and everything between two comments is written by this file:

    <!-- study NAME: METRIC, METRIC -->          a table, one row an arm
    <!-- differences NAME: METRIC, METRIC -->    each arm minus the control, over seeds and prompts;
                                                "minus ARM" among the metrics names another control
    <!-- by_seed NAME: METRIC, METRIC -->        each arm minus the control, and minus itself
                                                flipped, by the t of the seeds, where arms share no
                                                items
    <!-- answer NAME: ARM, ARM -->               what the arms that count say of the held-out loss
    <!-- stages NAME: STAGE, STAGE -->          what one arm's own take, by device
    <!-- cells NAME: METRIC, COST -->            one row an arm, one column a place on the axes; the
                                                costs are those of the first place
    <!-- ranking NAME: METRIC, OTHER -->         is the order of the arms that of the study OTHER?
    <!-- clipped NAME: ARM, ARM, … -->          agreement as it is, and as if the gradients of
                                                candidates were clipped as in training
    <!-- end -->

The analysis is the one that the study files were written with: an arm is called better where the
interval of its difference from the control excludes 0, and with fewer than three seeds it is not
called anything.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
import statistics
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from influbench.report.cells import Cells, costly, ordered
from influbench.report.notes import base_verdict
from influbench.results import CEILING, Study, load_study
from influbench.results.differences import CONTROL, differences
from influbench.statistics.against_oracle import RESAMPLES
from influbench.statistics.agreement import spearman
from influbench.statistics.bootstrap import interval
from influbench.statistics.estimate import Estimate
from influbench.statistics.seeds import ENOUGH, over_seeds
from paper_figs.records import clusters

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "docs" / "teaching.md", ROOT / "docs" / "results.md")
BLOCK = re.compile(
    r"(<!-- (study|differences|by_seed|answer|stages|cells|ranking|clipped) (\w+): ([^>]*?) -->\n)"
    r".*?(<!-- end -->)",
    re.S,
)
WIDTH = 100
LOSS = "heldout_loss"
FLIPPED = "flipped:"
MINUS = "minus "


def filled(text: str, results: Path) -> str:
    """The page with its numbers."""

    @functools.cache
    def study_of(name: str) -> Study:
        return load_study(name, results)

    def one(found: re.Match[str]) -> str:
        head, kind, name, told, end = found.groups()
        told = [word.strip() for word in told.split(",")]
        study = study_of(name) if list((results / name).glob("*=*.json")) else None
        if study is None:
            body = f"No results yet: `influbench sweep experiments/{name}.yaml`.\n"
            return f"{head}{'Not answered yet. ' if kind == 'answer' else ''}{body}{end}"
        if kind == "ranking":
            body = _ranking(study, study_of(told[1]), told[0])
        else:
            made = {"study": _table, "differences": _differences, "answer": _answer}
            made |= {"cells": _by_cell, "by_seed": _seed_by_seed, "stages": _stages}
            made |= {"clipped": _clipped}
            body = made[kind](study, told)
        return f"{head}{body}{end}"

    return BLOCK.sub(one, text)


def _table(study: Study, metrics: list[str]) -> str:
    cells = Cells.of(study)
    rows = study.rows.to_dict("records")
    known = [metric for metric in metrics if metric in cells.metrics]
    units = {row["metric"]: row["unit"] for row in rows}
    titles = [f"{metric} ({units[metric]})" if units[metric] else metric for metric in known]
    lines = [_line(["arm", *titles, "s.d. over seeds", "seeds"]), _rule(len(known) + 2)]
    notes: list[str] = []
    for label in ordered(cells):
        numbers = [cells.numbers.get((label, metric)) for metric in known]
        first = next((number for number in numbers if number is not None), None)
        if first is None:
            continue
        values = _by_seed(rows, first, study.axes)
        spread = f"{statistics.stdev(values):.3f}" if len(values) > 1 else "–"
        name = " ".join(part for part in cells.heads[label] if part)
        shown = [_shown(number) + _fewer(number, first["seeds"]) for number in numbers]
        lines.append(_line([f"`{name}`", *shown, spread, str(first["seeds"])]))
        if known[numbers.index(first)].endswith("_slope") and len(values) > 1:
            power = abs(first["value"]) / statistics.stdev(values)
            notes.append(f"The slope is {power:.0f} times its standard deviation between seeds.")
    verdict = base_verdict(study)
    notes += [verdict[1] + "."] if verdict else []
    lacking = ", ".join(f"`{metric}`" for metric in metrics if metric not in known)
    notes += [f"Not in these records: {lacking}."] if lacking else []
    if study.missing:
        notes.append(f"{len(study.missing)} of {len(study.missing) + len(study.runs)} runs lack.")
    return "\n".join([*lines, *(["", _wrapped(" ".join(notes))] if notes else [])]) + "\n"


def _by_seed(rows: list[dict[Any, Any]], number: Any, axes: Sequence[str]) -> list[float]:
    """One value a seed of an arm, at its place on the axes, in the last round."""
    own = [
        row
        for row in rows
        if (row["estimator"], row["metric"]) == (number["estimator"], number["metric"])
        and all(number[axis] is None or number[axis] == row[axis] for axis in axes)
    ]
    last = max(row["round"] for row in own)
    return list({row["seed"]: row["value"] for row in own if row["round"] == last}.values())


def _differences(study: Study, metrics: list[str]) -> str:
    named = [told.removeprefix(MINUS) for told in metrics if told.startswith(MINUS)]
    rows = differences(study, control=named[0] if named else None).to_dict("records")
    found = [row for row in rows if row["metric"] in metrics]
    if not found:
        return "No two arms on the same prompts yet.\n"
    lines = [_line(["arm", "metric", "minus", "difference", "seeds", "prompts"]), _rule(5)]
    for row in found:
        head = [f"`{row['label']}`", f"{row['metric']} ({row['unit']})", f"`{row['against']}`"]
        lines.append(_line([*head, _shown(row), str(row["seeds"]), str(row["prompts"])]))
    return "\n".join(lines) + "\n"


def _seed_by_seed(study: Study, metrics: list[str]) -> str:
    lines = [_line(["arm", "metric", "minus", "difference", "seed by seed"]), _rule(4)]
    rows = study.rows.to_dict("records")
    axes = [axis for axis in study.axes if axis != "rule"]  # a rule names its arms
    for metric in metrics:
        own = [row for row in rows if row["metric"] == metric]
        found: dict[tuple[Any, ...], dict[str, dict[int, float]]] = {}
        for row in own:
            arms = found.setdefault(tuple(row[axis] for axis in axes), {})
            arms.setdefault(row["estimator"], {})[row["seed"]] = row["value"]
        for place, arms in sorted(found.items()):
            head = f"{metric} ({own[0]['unit']})"
            head += "".join(f", {axis} {at:g}" for axis, at in zip(axes, place, strict=True))
            against = [(arm, CONTROL) for arm in arms if arm != CONTROL]
            against += [(arm, FLIPPED + arm) for arm in arms if FLIPPED + arm in arms]
            for arm, other in against:
                shared = sorted(arms[arm].keys() & arms.get(other, {}).keys())
                gaps = [arms[arm][seed] - arms[other][seed] for seed in shared]
                if not gaps:
                    continue
                number = over_seeds([Estimate(value=gap, n=1) for gap in gaps])
                shown = number.value, number.low, number.high
                told = (
                    f"{shown[0]:.3f}" if None in shown else "{:.3f} [{:.3f}, {:.3f}]".format(*shown)
                )
                each = ", ".join(f"{gap:.3f}" for gap in gaps)
                lines.append(_line([f"`{arm}`", head, f"`{other}`", told.format(*shown), each]))
    return "\n".join(lines) + "\n"


def _stages(study: Study, stages: list[str]) -> str:
    spent: dict[tuple[str, str], list[tuple[float, int]]] = {}
    for result in study.runs.values():
        arm = result.config["scoring"]["estimator"]
        for stage in stages:
            labels = (arm, f"{arm}-turns", f"training-{arm}")
            own = [row for row in result.ledger if row.stage == stage and row.label in labels]
            if own:
                took = sum(row.seconds for row in own), max(row.peak_bytes for row in own)
                told = [row.device for row in own if row.device]
                device = told[0] if told else str(result.provenance["device"])
                spent.setdefault((device, stage), []).append(took)
    heads = ["device", "stage", "arms", "median, s", "longest, s", "peak, GB"]
    lines = [_line(heads), _rule(5)]
    for (device, stage), found in sorted(spent.items()):
        seconds, peaks = zip(*found, strict=True)
        shown = [statistics.median(seconds), max(seconds), max(peaks) / 1e9]
        told = [f"{number:.1f}" for number in shown]
        lines.append(_line([device, stage, str(len(found)), *told]))
    return "\n".join(lines) + "\n"


def _answer(study: Study, arms: list[str]) -> str:
    if study.missing:
        whole = len(study.missing) + len(study.runs)
        return _wrapped(f"Not answered yet: {len(study.runs)} of {whole} runs are there.") + "\n"
    found = differences(study).to_dict("records")
    rows = {row["estimator"]: row for row in found if row["metric"] == LOSS}
    told = [(name, rows[name]) for name in arms if name in rows]
    calls = {name: _call(row) for name, row in told}
    said = [f"`{n}` minus `{r['against']}` is {_shown(r)} nats/token: {calls[n]}" for n, r in told]
    better = [name for name, call in calls.items() if call == "better"]
    head = "Yes, as far as this study goes" if better else "Not shown by this study"
    if any(call.startswith("not an answer") for call in calls.values()) or not told:
        head = "Not answered: too few seeds"
    return _wrapped(f"**{head}.** {'; '.join(said)}.") + "\n"


Place = tuple[Any, ...]
"""Where a cell stands on the axes of its study."""
ORACLES = ("exact", CEILING)
HELD = 0.8
"""A rank correlation from which on an order is called kept."""


def _cells(study: Study, metric: str) -> dict[Place, dict[str, Any]]:
    """The numbers of every place on the axes, by arm."""
    rows = [row for row in study.estimates.to_dict("records") if row["metric"] == metric]
    everywhere = study.rows.to_dict("records")
    places = dict.fromkeys(tuple(row[axis] for axis in study.axes) for row in everywhere)
    found: dict[Place, dict[str, Any]] = {place: {} for place in places}
    for place, row in itertools.product(places, rows):
        own = [row[axis] for axis in study.axes]
        if all(value is None or value == other for value, other in zip(own, place, strict=True)):
            found[place][row["estimator"]] = row
    return found


def _by_cell(study: Study, metrics: list[str]) -> str:
    """Arms by their mean over the cells, best first; the oracle's agreement with itself on top."""
    metric, *costs = metrics
    found = _cells(study, metric)
    first = next(iter(found))
    paid = {cost: _cells(study, cost)[first] for cost in costs}
    arms = list(dict.fromkeys(arm for numbers in found.values() for arm in numbers))
    mean = {a: statistics.fmean(n[a]["value"] for n in found.values() if a in n) for a in arms}
    titles = [cost.replace("_", " ") for cost in costs]
    lines = [_line([f"{metric} of", *map(_place, found), *titles]), _rule(len(found) + len(costs))]
    for arm in sorted(arms, key=lambda arm: (arm not in ORACLES, -mean[arm])):
        shown = [_shown(numbers.get(arm), 2) for numbers in found.values()]
        shown += [costly(n["value"]) if (n := own.get(arm)) else "–" for own in paid.values()]
        lines.append(_line([f"`{arm}`", *shown]))
    seeds = sorted({row["seeds"] for numbers in found.values() for row in numbers.values()})
    note = f"Seeds: {', '.join(map(str, seeds))}."
    if study.missing:
        note += f" {len(study.missing)} of {len(study.missing) + len(study.runs)} runs lack."
    return "\n".join([*lines, "", note]) + "\n"


def _ranking(study: Study, other: Study, metric: str) -> str:
    """Cell by cell: is the order of the arms the other study's, and which arms moved?"""
    (before,) = _cells(other, metric).values()
    lines = [_line(["cell", f"rank correlation with {other.name}", "methods", "moved"]), _rule(3)]
    held: list[bool] = []
    for place, numbers in _cells(study, metric).items():
        both = [arm for arm in numbers if arm in before and arm not in ORACLES]
        pair = [np.array([cells[arm]["value"] for arm in both]) for cells in (before, numbers)]
        order = spearman(pair[0], pair[1])
        held.append(order >= HELD)
        moved = [f"`{arm}`" for arm in both if _apart(before[arm], numbers[arm])]
        told = [_place(place), f"{order:.2f}", str(len(both)), ", ".join(moved) or "–"]
        lines.append(_line(told))
    said = f"**The ranking holds in {sum(held)} of {len(held)} cells**"
    said += f" (rank correlation {HELD} or more)."
    if study.missing:
        whole = len(study.missing) + len(study.runs)
        said = f"Not answered yet: {len(study.runs)} of {whole} runs are there. So far: {said}"
    else:
        counted = {row["seeds"] for cell in _cells(study, metric).values() for row in cell.values()}
        said += f" Seeds: {', '.join(map(str, sorted(counted)))}."
    return "\n".join([_wrapped(said), "", *lines]) + "\n"


def _clipped(study: Study, arms: list[str]) -> str:
    """Each arm's agreement as it is, and with its scores as if gradients were clipped.

    A score that is linear in the candidate's gradient is multiplied by min(1, clip / its norm),
    which the arm ``grad_norm`` has measured. Intervals are of the latter, over seeds and groups.
    """
    shown: dict[str, dict[Place, list[tuple[float, Estimate]]]] = {arm: {} for arm in arms}
    norms: list[float] = []
    for at, rows in study.scores.groupby([*study.axes, "seed"], sort=False, dropna=False):
        place = tuple(None if v != v else v for v in cast(Place, at)[:-1])  # pandas: None is NaN
        clip = study.runs[rows["run"].iloc[0]].config["warmup"]["clip_norm"] or math.inf
        values = rows.pivot_table(index="id", columns="estimator", values="value")
        norm, exact = values["grad_norm"].to_numpy(), values["exact"].to_numpy()
        norms += list(norm / clip)
        pairs = zip(rows["id"], rows["group"], strict=True)
        members = clusters(list(values.index), {item: group or item for item, group in pairs})
        for arm in arms:
            own = values[arm].to_numpy()
            cut = _over_groups(exact, own * np.minimum(1.0, clip / norm), members)
            shown[arm].setdefault(place, []).append((spearman(exact, own), cut))
    heads = [_place(place) for place in shown[arms[0]]]
    lines = [_line(["as it is → clipped", *heads]), _rule(len(heads))]
    for arm, cells in shown.items():
        told: list[str] = []
        for pairs in cells.values():
            cut = over_seeds([after for _, after in pairs], (-1.0, 1.0))
            number = {"value": cut.value, "low": cut.bounds[0], "high": cut.bounds[1]}
            told.append(f"{statistics.fmean(a for a, _ in pairs):.2f} → {_shown(number, 2)}")
        lines.append(_line([f"`{arm}`", *told]))
    longer = sum(norm > 1 for norm in norms)
    seeds = sorted({len(pairs) for pairs in shown[arms[0]].values()})
    note = f"Seeds: {', '.join(map(str, seeds))}. {longer} of {len(norms)} gradients are clipped: "
    note += f"they are {min(norms):.1f} to {max(norms):.1f} times as long as that allows."
    return "\n".join([*lines, "", _wrapped(note)]) + "\n"


def _over_groups(exact: np.ndarray, own: np.ndarray, members: list[np.ndarray]) -> Estimate:
    """Spearman with the interval that groups of siblings give; the same draws for every arm."""

    def of(drawn: np.ndarray) -> float:
        items = np.concatenate([members[i] for i in drawn])
        return spearman(exact[items], own[items])

    found = interval(np.arange(len(members)), of, np.random.default_rng(0), RESAMPLES)
    return replace(found, n=len(exact))


def _apart(a: Any, b: Any) -> bool:
    """Whether two numbers' intervals have no number in common."""
    return a["low"] > b["high"] or b["low"] > a["high"]


def _place(place: Place) -> str:
    return ", ".join(f"`{value}`" for value in place) or "all"


def _call(row: Any) -> str:
    if row["seeds"] < ENOUGH:
        return f"not an answer with {row['seeds']} seed{'s' if row['seeds'] > 1 else ''}"
    if row["high"] < 0:
        return "better"
    return "worse" if row["low"] > 0 else "no difference shown"


def _shown(number: Any, places: int = 3) -> str:
    if number is None:
        return "–"
    value, low, high = (f"{number[name]:.{places}f}" for name in ("value", "low", "high"))
    return value if number["low"] != number["low"] else f"{value} [{low}, {high}]"


def _fewer(number: Any, seeds: int) -> str:
    """Says of a number that it is of other seeds than its row, such as where it is undefined."""
    if number is None or number["seeds"] == seeds:
        return ""
    return f" ({number['seeds']} of {seeds} seeds)"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(numbers: int) -> str:
    return f"|---|{'--:|' * numbers}"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def main() -> int:
    """Fills every page; with ``--check`` only says which would change."""
    stale = 0
    for page in PAGES:
        before = page.read_text(encoding="utf-8")
        after = filled(before, ROOT / "results")
        if after == before:
            continue
        stale += 1
        if "--check" not in sys.argv:
            page.write_text(after, encoding="utf-8")
        said = "stale, run python docs/tables.py" if "--check" in sys.argv else "filled"
        sys.stdout.write(f"{page.relative_to(ROOT)}: {said}\n")
    return stale if "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
