"""MT-Bench, pairwise mode: every turn of two models' conversations head to head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from influbench.data.records import Answer, Outcome, Question
from influbench.evaluation.suite import Marks, Needs, Numbers, Sitting, VerdictConfig, verdicts
from influbench.evaluation.suites import head_to_head
from influbench.evaluation.suites.head_to_head import HeadToHead
from influbench.judging.protocol import Judge
from influbench.statistics.estimate import Estimate


class MTBenchPairwise:
    """The suite ``mt_bench_pairwise``; its baseline is a model: a file of outputs has one turn."""

    name = "mt_bench_pairwise"
    needs = Needs(turns="two", judge=True, baseline="model")

    def mark(self, sitting: Sitting) -> Marks:
        """See :func:`compare`."""
        answers = sitting.answers("two"), sitting.baseline_answers("two")
        outcomes = sitting.judged(STAGE, sitting.material.questions, *answers)
        return Marks(outcomes, self.numbers(outcomes))

    def numbers(self, outcomes: Sequence[Outcome]) -> Numbers:
        """Shares of win, tie and lose of each turn, such as ``win_2``."""
        found: dict[str, Estimate] = {}
        for turn in sorted({o.metric.rpartition("_")[2] for o in outcomes}):
            end = f"_{turn}"
            own = [
                replace(o, metric=o.metric.removesuffix(end))
                for o in outcomes
                if o.metric.endswith(end)
            ]
            found |= {f"{name}{end}": s for name, s in HeadToHead().numbers(own).items()}
        return found


def compare(
    questions: Sequence[Question],
    answers: Sequence[Answer],
    other_answers: Sequence[Answer],
    judge: Judge,
) -> list[Outcome]:
    """:func:`head_to_head.compare` of every turn, metrics ending in _1, _2."""
    turns = max((len(question.turns) for question in questions), default=0)
    return [
        replace(outcome, metric=f"{outcome.metric}_{turn + 1}")
        for turn in range(turns)
        for outcome in head_to_head.compare(
            [q for q in questions if len(q.turns) > turn], answers, other_answers, judge, turn=turn
        )
    ]


def _duel_by_turn(
    _: VerdictConfig,
    judge: Judge,
    questions: Sequence[Question],
    answers: Sequence[Answer],
    baseline: Sequence[Answer],
) -> list[Outcome]:
    return compare(questions, answers, baseline, judge)


STAGE = verdicts("pairwise", 2, _duel_by_turn)
