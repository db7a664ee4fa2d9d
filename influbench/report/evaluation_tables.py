"""Tables for the terminal: the marks of one student, and what is known of a judge."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.markup import escape
from rich.table import Table

from influbench.terminal import cell

if TYPE_CHECKING:
    from influbench.evaluation.judge_check import Examination
    from influbench.evaluation.standalone import Evaluation
    from influbench.statistics.estimate import Estimate

MEANINGS = {
    "agreement": "agrees with the record (ties in the record left out)",
    "first": "prefers the answer shown first (50 = no position bias)",
    "consistent": "favours the same answer in both orders",
    "longer": "prefers the longer answer",
    "recorded_longer": "the record prefers the longer answer",
    "unparseable": "names neither answer",
}
HARNESS = "harness:"
JUDGED = ("judge_prefers_first", "judge_consistent", "judge_unparseable")
CHARACTERS = "characters"
"""Unit of what no judge has a part in."""
MISSING = "–"


def marks_table(found: Evaluation) -> Table:
    """Every number with its standard error and, beside it, how the judge behaved."""
    table = Table(
        title=cell(found.student + (f" against {found.baseline}" if found.baseline else "")),
        caption=escape("\n".join(_caption(found))),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
    )
    for title in ("suite", "number"):
        table.add_column(title, overflow="fold")
    for title in ("value", "s.e.", "n", "unit", "judge: first\nplace (%)"):
        table.add_column(title, justify="right", overflow="fold")
    for title in ("judge: both\norders (%)", "judge:\nsilent (%)"):
        table.add_column(title, justify="right", overflow="fold")
    for part in found.marks.parts:
        judged = [_short(part.quality.get(name)) for name in JUDGED]
        for name, number in part.numbers.items():
            table.add_row(
                cell(part.suite.removeprefix(HARNESS)),
                cell(name.partition("/")[2] if part.suite.startswith(HARNESS) else name),
                _value(number.value),
                MISSING if number.stderr is None else _value(number.stderr),
                str(number.n),
                number.unit,
                *(judged if number.unit != CHARACTERS else (MISSING,) * len(judged)),
            )
    return table


def judge_table(found: Examination) -> Table:
    """One row a number, with its standard error over pairs."""
    shown = Table(
        title=cell(f"judge {found.judge}"),
        caption=cell(found.note),
        box=box.SIMPLE_HEAD,
        show_edge=False,
    )
    shown.add_column("the judge", overflow="fold")
    for title in ("%", "s.e.", "pairs"):
        shown.add_column(title, justify="right")
    for metric, meaning in MEANINGS.items():
        number = found.summaries.get(metric)
        if number is None:
            shown.add_row(meaning, "unknown", MISSING, "0")
            continue
        error = MISSING if number.stderr is None else f"{number.stderr:.1f}"
        shown.add_row(meaning, f"{number.value:.1f}", error, str(number.n))
    return shown


def _caption(found: Evaluation) -> list[str]:
    lines = list(found.decoding)
    examined = [] if found.examined is None else [found.examined.judge]
    if judges := ", ".join(dict.fromkeys([*examined, *found.marks.judges])):
        spent = [row for row in found.ledger if row.phase == "judge"]
        calls = sum(row.api_calls for row in spent)
        asked = sum(row.api_prompt_tokens for row in spent)
        written = sum(row.api_completion_tokens for row in spent)
        lines.append(
            f"judge {judges}: {calls:,} requests, {asked:,} tokens read, {written:,} written, "
            f"${sum(row.money for row in spent):.4f}"
        )
        lines.append("first place: preference for the answer shown first, 50 = no position bias")
    return [*lines, *found.notes]


def _value(value: float) -> str:
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def _short(number: Estimate | None) -> str:
    if number is None:
        return MISSING
    return f"{number.value:.0f}" + ("" if number.stderr is None else f" ± {number.stderr:.0f}")
