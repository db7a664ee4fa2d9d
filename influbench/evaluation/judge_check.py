"""How good a judge is: on recorded preferences, and while it gave a score.

``check`` measures agreement with the record, position bias, length bias and silence with the
AlpacaEval question in both orders. ``quality`` reads the same from the outcomes of any suite, and
stands beside every score. A liking for the first place shows a judge that does not read; a liking
for the longer answer may be right (the longer one may be better), so it is no proof.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from influbench.config import Config
from influbench.data.records import Answer, Outcome, Question
from influbench.evaluation.recorded import Preference
from influbench.evaluation.suite import VerdictConfig, verdicts
from influbench.evaluation.suites import alpaca_eval
from influbench.judging import JudgeConfig
from influbench.judging.protocol import Judge
from influbench.statistics.estimate import Estimate
from influbench.statistics.outcomes import by_item, summarise, values
from influbench.store.session import Session

PREFERS_FIRST = "judge_prefers_first"
"""Preference for the answer shown first, percent; 50 = no position bias."""
CONSISTENT = "judge_consistent"
"""Share of the items where both orders favour the same answer, percent."""
PREFERS_LONGER = "judge_prefers_longer"
"""Preference for the longer answer, percent."""
UNPARSEABLE = "judge_unparseable"
"""Share of replies that give no verdict, percent."""


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


def describe(judge: str, note: str, outcomes: Sequence[Outcome]) -> str:
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
        f"judge {judge}: agrees with the record on {shown('agreement')} of {pairs} pairs, "
        f"prefers the first shown {shown('first')} (50 = no position bias), is consistent over "
        f"both orders on {shown('consistent')}, prefers the longer {shown('longer')} (the record: "
        f"{shown('recorded_longer')}), names none in {shown('unparseable')}"
        + (f"; {note}" if note else "")
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


def quality(outcomes: Sequence[Outcome]) -> dict[str, Estimate]:
    """All of the above that the outcomes of one suite tell, with standard errors over items."""
    found = {
        PREFERS_FIRST: _prefers_first(outcomes),
        CONSISTENT: _consistent(outcomes),
        PREFERS_LONGER: _prefers_longer(outcomes),
        UNPARSEABLE: [o.value for o in outcomes if _plain(o) == "unparseable"],
    }
    return {name: summarise(v, "percent", 100.0) for name, v in found.items() if v}


def _prefers_first(outcomes: Sequence[Outcome]) -> list[float]:
    duels = _mean_by_item([o for o in outcomes if _plain(o) == "first"])
    first, second = by_item(outcomes, "win_first"), by_item(outcomes, "win_second")
    shown = {
        item: [
            *([first[item]] if item in first else []),
            *([1 - second[item]] if item in second else []),
        ]
        for item in dict.fromkeys([*first, *second])
    }
    return [*duels, *(float(np.mean(v)) for v in shown.values())]


def _consistent(outcomes: Sequence[Outcome]) -> list[float]:
    duels = _mean_by_item([o for o in outcomes if _plain(o) == "disagreement"])
    first, second = by_item(outcomes, "win_first"), by_item(outcomes, "win_second")
    pairs = [
        float(np.sign(first[i] - 0.5) == np.sign(second[i] - 0.5)) for i in first if i in second
    ]
    return [*(1 - value for value in duels), *pairs]


def _prefers_longer(outcomes: Sequence[Outcome]) -> list[float]:
    wins, ours = by_item(outcomes, "win"), by_item(outcomes, "length")
    theirs = by_item(outcomes, "baseline_length")
    return [
        win if ours[item] > theirs[item] else 1 - win
        for item, win in wins.items()
        if item in ours and ours[item] != theirs[item]
    ]


def _plain(outcome: Outcome) -> str:
    """The metric without the turn that a two-turn comparison appends."""
    return outcome.metric.removesuffix("_1").removesuffix("_2")


def _mean_by_item(outcomes: Sequence[Outcome]) -> list[float]:
    found: dict[str, list[float]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.item, []).append(outcome.value)
    return [float(np.mean(v)) for v in found.values()]


def _check(_: VerdictConfig, judge: Judge, preferences: Sequence[Preference]) -> list[Outcome]:
    return check(preferences, judge)


STAGE = verdicts("judge_check", 2, _check)


class JudgeCheckConfig(Config):
    """Who is examined by the command ``judge-check``."""

    judge: JudgeConfig


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What is known of a judge."""

    judge: str
    note: str
    summaries: dict[str, Estimate]
    """By metric of :func:`check`, in percent."""
    described: str
    """The same in one line."""


def examine(judge: JudgeConfig, preferences: Sequence[Preference], session: Session) -> Examination:
    """Asks a judge about recorded preferences, in both orders.

    Args:
        judge: who is examined.
        preferences: see ``recorded.read_preferences``.
        session: keeps the judgements and the ledger.

    Raises:
        UserError: the judge fails.
    """
    cfg = VerdictConfig(judge=judge, archive=session.archive)
    entry = session.ask(STAGE, cfg, preferences, label="preferences")
    outcomes, name, note = (
        entry.records("outcomes", Outcome),
        entry.meta["judge"],
        entry.meta["note"],
    )
    return Examination(
        judge=name,
        note=note,
        summaries=summaries(outcomes),
        described=describe(name, note, outcomes),
    )
