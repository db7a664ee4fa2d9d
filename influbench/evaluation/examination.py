"""Examine a judge by itself: ``influbench judge-check``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table

from influbench.evaluation import judge_check, suite, verdicts
from influbench.evaluation.suite import VerdictConfig
from influbench.judging import JudgeConfig
from influbench.records import LedgerRow, Outcome
from influbench.statistics.estimate import Estimate
from influbench.store import Store
from influbench.terminal import cell

MEANINGS = {
    "agreement": "agrees with the record (ties in the record left out)",
    "first": "prefers the answer shown first (50 = no position bias)",
    "consistent": "favours the same answer in both orders",
    "longer": "prefers the longer answer",
    "recorded_longer": "the record prefers the longer answer",
    "unparseable": "names neither answer",
}


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What is known of a judge."""

    judge: str
    note: str
    summaries: dict[str, Estimate]
    """By metric of ``judge_check.check``, in percent."""
    described: str
    """The same in one line."""
    ledger: Sequence[LedgerRow]


def examine(
    judge: JudgeConfig, preferences: str, store: Store, *, limit: int | None = None
) -> Examination:
    """Asks a judge about recorded preferences, in both orders.

    Args:
        judge: who is examined.
        preferences: see ``judge_check.read_preferences``.
        store: keeps the judgements.
        limit: the first N pairs only.

    Raises:
        UserError: bad data, or the judge fails.
    """
    pairs = judge_check.read_preferences(preferences, limit)
    cfg = VerdictConfig(judge=judge, archive=suite.archive(store))
    entry = store.run(verdicts.JUDGE_CHECK, cfg, pairs, label="preferences")
    return Examination(
        judge=entry.meta["judge"],
        note=entry.meta["note"],
        summaries=judge_check.summaries(entry.records("outcomes", Outcome)),
        described=entry.meta["described"],
        ledger=entry.ledger(),
    )


def table(found: Examination) -> Table:
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
        summary = found.summaries.get(metric)
        if summary is None:
            shown.add_row(meaning, "unknown", "–", "0")
            continue
        error = "–" if summary.stderr is None else f"{summary.stderr:.1f}"
        shown.add_row(meaning, f"{summary.value:.1f}", error, str(summary.n))
    return shown
