"""How good a judge is: agreement with recorded preferences, position bias, length bias, silence.

Measured with the AlpacaEval question in both orders, on pairs whose better output is on record.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from influbench.data.examples import claim_id, instruction, row_id
from influbench.data.rows import Row, read_rows
from influbench.errors import UserError
from influbench.evaluation.suites import alpaca_eval
from influbench.judging.protocol import Judge
from influbench.records import Answer, Outcome, Question
from influbench.statistics.estimate import Estimate
from influbench.statistics.outcomes import by_item, summarise, values

SOURCES = (
    "instruction, output_1, output_2 and preference (1 = output_1 … 2 = output_2), or a prompt "
    "(instruction, prompt or conversations), chosen and rejected"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Preference:
    """Two outputs and how probably the first is the better one, according to the record."""

    id: str
    instruction: str
    output_1: str
    output_2: str
    first: float
    """In [0, 1]; 0.5 is a tie."""


def read_preferences(source: str | Path, limit: int | None = None) -> list[Preference]:
    """Preferences from a file or a hub data set.

    Raises:
        UserError: a row is of neither form, holds a null where a text should be, or has the id of
            an earlier one.
    """
    found: list[Preference] = []
    seen: dict[str, str] = {}
    for row in read_rows(source, limit):
        preference = _preference(row)
        claim_id(preference.id, row, seen)
        found.append(preference)
    return found


def check(preferences: Sequence[Preference], judge: Judge) -> list[Outcome]:
    """Asks the judge about each pair in both orders.

    Outcomes of each pair: ``agreement`` with the record, 0.5 where the judge is undecided (none
    where the record is a tie); ``first``, its mean preference for the output shown first;
    ``consistent``, 1 where both orders favour the same output; ``longer``, its preference for the
    longer output, and ``recorded_longer``, the record's; ``unparseable``, the share of its replies
    that name none.

    Args:
        preferences: pairs with recorded preferences.
        judge: who is examined.

    Raises:
        UserError: the judge fails.
    """
    questions = [Question(id=p.id, category="", turns=(p.instruction,)) for p in preferences]
    first, second = (
        [
            Answer(id=p.id, category="", turns=(p.instruction,), responses=(text,))
            for p, text in ((p, p.output_1 if one else p.output_2) for p in preferences)
        ]
        for one in (True, False)
    )
    judged = alpaca_eval.judge_pairs(questions, first, second, judge, orders="both")
    found = {
        metric: by_item(judged, metric)
        for metric in ("win", "win_first", "win_second", "unparseable")
    }
    out: list[Outcome] = []
    for pair in preferences:
        numbers = {metric: table.get(pair.id) for metric, table in found.items()}
        out += [
            Outcome(metric=metric, item=pair.id, value=value)
            for metric, value in _numbers(pair, numbers).items()
        ]
    return out


def summaries(outcomes: Sequence[Outcome]) -> dict[str, Estimate]:
    """Every metric of :func:`check` in percent, with its standard error over pairs."""
    metrics = sorted({outcome.metric for outcome in outcomes})
    return {m: summarise(values(outcomes, m), "percent", 100.0) for m in metrics}


def describe(judge: Judge, outcomes: Sequence[Outcome]) -> str:
    """What to print beside every score of this judge, in one line."""
    found = summaries(outcomes)

    def shown(metric: str) -> str:
        summary = found.get(metric)
        if summary is None:
            return "unknown"
        spread = "" if summary.stderr is None else f" ± {summary.stderr:.1f}"
        return f"{summary.value:.1f}{spread} %"

    pairs = found["agreement"].n if "agreement" in found else 0
    return (
        f"judge {judge.name}: agrees with the record on {shown('agreement')} of {pairs} pairs, "
        f"prefers the first shown {shown('first')} (50 = no position bias), is consistent over "
        f"both orders on {shown('consistent')}, prefers the longer {shown('longer')} (the record: "
        f"{shown('recorded_longer')}), names none in {shown('unparseable')}"
        + (f"; {judge.note}" if judge.note else "")
    )


def _numbers(pair: Preference, found: dict[str, float | None]) -> dict[str, float]:
    numbers = {"unparseable": found["unparseable"] or 0.0}
    win, first, second = found["win"], found["win_first"], found["win_second"]
    if win is None or first is None or second is None:
        return numbers
    if pair.first != 0.5:
        numbers["agreement"] = 0.5 if win == 0.5 else float((win > 0.5) == (pair.first > 0.5))
    numbers["first"] = (first + 1.0 - second) / 2
    numbers["consistent"] = float(np.sign(first - 0.5) == np.sign(second - 0.5))
    gap = len(pair.output_1) - len(pair.output_2)
    if gap:
        numbers["longer"] = win if gap > 0 else 1.0 - win
        numbers["recorded_longer"] = pair.first if gap > 0 else 1.0 - pair.first
    return numbers


def _preference(row: Row) -> Preference:
    fields = row.fields
    if {"output_1", "output_2", "preference"} <= fields.keys():
        value = fields["preference"]
        try:
            preference = float("nan") if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            preference = float("nan")
        if not 1 <= preference <= 2:
            raise UserError(
                f"{row.where}: expected a preference from 1 (output_1) to 2 (output_2), got "
                f"{value!r}"
            )
        return Preference(
            id=row_id(row, "id"),
            instruction=instruction(row),
            output_1=_output(row, "output_1"),
            output_2=_output(row, "output_2"),
            first=2.0 - preference,
        )
    asked = next((n for n in ("instruction", "prompt", "conversations") if n in fields), None)
    if asked is None or not {"chosen", "rejected"} <= fields.keys():
        raise UserError(f"{row.where}: expected {SOURCES}, got {sorted(fields)}")
    return Preference(
        id=row_id(row, "id"),
        instruction=instruction(row) if asked == "instruction" else _output(row, asked),
        output_1=_output(row, "chosen"),
        output_2=_output(row, "rejected"),
        first=1.0,
    )


def _output(row: Row, name: str) -> str:
    """Text as it is, an empty one too, or the last message of a conversation."""
    value = row.fields[name]
    if isinstance(value, list) and value:
        value = value[-1]
    if isinstance(value, dict):
        value = value.get("content", value.get("value"))
    if not isinstance(value, str):
        got = "nothing (null)" if value is None else f"{type(value).__name__} {str(value)[:60]!r}"
        raise row.refuse(f"text in '{name}'", got, "fill it in or remove the row")
    return value
