"""Fills the numbers of a page from ``results/``: ``python docs/tables.py`` (or ``--check``).

A page says where they stand, and everything between two comments is written by this file:

    <!-- study NAME: METRIC, METRIC -->          a table, one row an arm
    <!-- differences NAME: METRIC, METRIC -->    each arm minus the control, over seeds and prompts
    <!-- answer NAME: ARM, ARM -->               what the arms that count say of the held-out loss
    <!-- end -->

The analysis is the one that the study files were written with: an arm is called better where the
interval of its difference from the control excludes 0, and with fewer than three seeds it is not
called anything.
"""

from __future__ import annotations

import re
import statistics
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from influbench.report.cells import Cells, ordered
from influbench.report.notes import base_verdict
from influbench.results import Study, load_study
from influbench.results.differences import differences
from influbench.statistics.seeds import ENOUGH

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "docs" / "teaching.md",)
BLOCK = re.compile(
    r"(<!-- (study|differences|answer) (\w+): ([^>]*?) -->\n).*?(<!-- end -->)", re.S
)
WIDTH = 100
LOSS = "heldout_loss"


def filled(text: str, results: Path) -> str:
    """The page with its numbers."""

    def one(found: re.Match[str]) -> str:
        head, kind, name, told, end = found.groups()
        told = [word.strip() for word in told.split(",")]
        study = load_study(name, results) if list((results / name).glob("*=*.json")) else None
        if study is None:
            body = f"No results yet: `influbench sweep experiments/{name}.yaml`.\n"
            return f"{head}{'Not answered yet. ' if kind == 'answer' else ''}{body}{end}"
        body = {"study": _table, "differences": _differences, "answer": _answer}[kind](study, told)
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
        shown = [_shown(number) for number in numbers]
        lines.append(_line([f"`{name}`", *shown, spread, str(first["seeds"])]))
        if known[numbers.index(first)].endswith("_slope") and len(values) > 1:
            power = abs(first["value"]) / statistics.stdev(values)
            notes.append(f"The slope is {power:.0f} times its standard deviation between seeds.")
    verdict = base_verdict(study)
    notes += [verdict[1] + "."] if verdict else []
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
    found = [r for r in differences(study).to_dict("records") if r["metric"] in metrics]
    if not found:
        return "No two arms on the same prompts yet.\n"
    lines = [_line(["arm", "metric", "minus", "difference", "seeds", "prompts"]), _rule(5)]
    for row in found:
        head = [f"`{row['label']}`", f"{row['metric']} ({row['unit']})", f"`{row['against']}`"]
        lines.append(_line([*head, _shown(row), str(row["seeds"]), str(row["prompts"])]))
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


def _call(row: Any) -> str:
    if row["seeds"] < ENOUGH:
        return f"not an answer with {row['seeds']} seed{'s' if row['seeds'] > 1 else ''}"
    if row["high"] < 0:
        return "better"
    return "worse" if row["low"] > 0 else "no difference shown"


def _shown(number: Any) -> str:
    if number is None:
        return "–"
    if number["low"] != number["low"]:
        return f"{number['value']:.3f}"
    return f"{number['value']:.3f} [{number['low']:.3f}, {number['high']:.3f}]"


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
