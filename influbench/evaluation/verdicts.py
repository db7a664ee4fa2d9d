"""Stages in which a judge decides between two models, or is examined itself."""

from __future__ import annotations

from collections.abc import Sequence

from influbench.evaluation import judge_check
from influbench.evaluation.judge_check import Preference
from influbench.evaluation.suite import VerdictConfig, asked
from influbench.evaluation.suites import head_to_head, mt_bench
from influbench.judging import Budget
from influbench.records import Answer, Question
from influbench.store import Stage, Work


def duel(
    cfg: VerdictConfig,
    questions: Sequence[Question],
    answers: Sequence[Answer],
    baseline: Sequence[Answer],
    *,
    work: Work,
    budget: Budget | None = None,
) -> None:
    """Writes ``outcomes``: win, tie or lose of the first turn (see ``head_to_head.compare``)."""
    with asked(cfg, work, len(questions), budget) as judge:
        outcomes = head_to_head.compare(questions, answers, baseline, judge)
    work.write("outcomes", outcomes)


def duel_by_turn(
    cfg: VerdictConfig,
    questions: Sequence[Question],
    answers: Sequence[Answer],
    baseline: Sequence[Answer],
    *,
    work: Work,
    budget: Budget | None = None,
) -> None:
    """Writes ``outcomes``: win, tie or lose of every turn (see ``mt_bench.compare``)."""
    with asked(cfg, work, len(questions), budget) as judge:
        outcomes = mt_bench.compare(questions, answers, baseline, judge)
    work.write("outcomes", outcomes)


def examine(
    cfg: VerdictConfig,
    preferences: Sequence[Preference],
    *,
    work: Work,
    budget: Budget | None = None,
) -> None:
    """Writes ``outcomes`` of ``judge_check.check``; ``work.meta`` has them in one line."""
    with asked(cfg, work, len(preferences), budget) as judge:
        outcomes = judge_check.check(preferences, judge)
    work.write("outcomes", outcomes)
    work.meta["described"] = judge_check.describe(judge, outcomes)


HEAD_TO_HEAD = Stage("head_to_head", 1, duel)
PAIRWISE = Stage("pairwise", 1, duel_by_turn)
JUDGE_CHECK = Stage("judge_check", 1, examine)
