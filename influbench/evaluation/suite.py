"""The marks of one student: held-out loss, win rate against the baseline student, two-turn grade.

Each mark is a stage of its own, so that another judge buys judgements and nothing else again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from influbench import judging
from influbench.config import Config, transport
from influbench.derivatives.gradients import losses
from influbench.evaluation import answers as answering
from influbench.evaluation.answers import AnswerConfig
from influbench.evaluation.suites import alpaca_eval, mt_bench
from influbench.judging import ArchivedJudge, Budget, JudgeConfig
from influbench.records import Answer, Example, ModelRef, Outcome, Question
from influbench.store import Entry, Stage, Store, Work
from influbench.student import StudentSettings, load_student


class EvaluationConfig(Config):
    """How students are marked."""

    answers: AnswerConfig = AnswerConfig()
    turns: AnswerConfig = Field(
        default=AnswerConfig(), description="answers of the two-turn questions"
    )
    orders: Literal["both", "random"] = Field(
        default="both", description="orders in which the judge sees two answers"
    )
    seed: int = 0


class LossConfig(Config):
    """Nothing to set but where it runs."""

    device: str = transport("auto")


class VerdictConfig(Config):
    """A judge's marks."""

    judge: JudgeConfig
    orders: Literal["both", "random"] = "both"
    seed: int = 0
    archive: Path | None = transport(None)


@dataclass(frozen=True)
class Evaluated:
    """A student's answers and marks."""

    answers: Sequence[Answer]
    outcomes: Sequence[Outcome]
    notes: frozenset[str]
    """What the judge's stages say of the judge."""


Do = Callable[..., Entry]
"""Runs a stage: ``do(stage, config, *inputs, label=…)``."""


@dataclass(frozen=True, kw_only=True)
class Suite:
    """What a student is marked on."""

    cfg: EvaluationConfig
    judge: JudgeConfig
    evaluation: Sequence[Question]
    """Single-turn prompts with a reference answer each."""
    questions: Sequence[Question]
    """Two-turn questions."""
    reference: Sequence[Example]
    archive: Path

    def evaluate(
        self, do: Do, student: ModelRef, baseline: Evaluated | None, *, label: str
    ) -> Evaluated:
        """All marks of one student; the win rate only where there is a baseline to beat."""
        seed = {"seed": self.cfg.seed}
        single = self.cfg.answers.model_copy(update=seed)
        several = self.cfg.turns.model_copy(update=seed)
        answered = do(answering.STAGE, single, self.evaluation, student, label=label)
        answers = answered.records("answers", Answer)
        outcomes = do(
            LOSSES, LossConfig(), held_out(self.evaluation), self.reference, student, label=label
        ).records("outcomes", Outcome)
        verdict = VerdictConfig(
            judge=self.judge, orders=self.cfg.orders, seed=self.cfg.seed, archive=self.archive
        )
        notes: set[str] = set()
        if baseline is not None:
            entry = do(COMPARE, verdict, self.evaluation, answers, baseline.answers, label=label)
            outcomes += entry.records("outcomes", Outcome)
            notes.add(entry.meta["note"])
        if self.questions:
            turns = do(answering.STAGE, several, self.questions, student, label=f"{label}-turns")
            rows = turns.records("answers", Answer)
            graded = do(GRADE, verdict, self.questions, rows, label=label)
            outcomes += graded.records("outcomes", Outcome)
            notes.add(graded.meta["note"])
        return Evaluated(answers, outcomes, frozenset(notes - {""}))


def held_out(evaluation: Sequence[Question]) -> list[Example]:
    """The evaluation prompts that carry a good answer, as examples."""
    return [
        Example(id=q.id, instruction=q.turns[0], response=q.reference[0])
        for q in evaluation
        if q.reference
    ]


def archive(store: Store) -> Path:
    """Where a store keeps judgements, so that none is bought twice."""
    return store.root / "judgements.jsonl"


def measure_losses(
    cfg: LossConfig,
    evaluation: Sequence[Example],
    reference: Sequence[Example],
    student: ModelRef,
    *,
    work: Work,
) -> None:
    """Writes ``outcomes``: ``heldout_loss`` and ``reference_loss``, nats per response token."""
    held = load_student(student, StudentSettings(device=cfg.device))
    outcomes: list[Outcome] = []
    for metric, examples in (("heldout_loss", evaluation), ("reference_loss", reference)):
        with work.meter.phase(metric, items=len(examples), models=[held.model]):
            values = losses(held, examples)
        outcomes += [
            Outcome(metric=metric, item=e.id, value=float(v))
            for e, v in zip(examples, values, strict=True)
        ]
    work.write("outcomes", outcomes)


def compare(
    cfg: VerdictConfig,
    questions: Sequence[Question],
    answers: Sequence[Answer],
    baseline: Sequence[Answer],
    *,
    work: Work,
    budget: Budget | None = None,
) -> None:
    """Writes ``outcomes``: the judge's preference for ``answers`` over ``baseline``."""
    with asked(cfg, work, len(questions), budget) as judge:
        outcomes = alpaca_eval.judge_pairs(
            questions, answers, baseline, judge, orders=cfg.orders, seed=cfg.seed
        )
    work.write("outcomes", outcomes)


def grade(
    cfg: VerdictConfig,
    questions: Sequence[Question],
    answers: Sequence[Answer],
    *,
    work: Work,
    budget: Budget | None = None,
) -> None:
    """Writes ``outcomes``: the judge's grade a turn."""
    with asked(cfg, work, len(questions), budget) as judge:
        outcomes = mt_bench.grade(questions, answers, judge)
    work.write("outcomes", outcomes)


@contextmanager
def asked(
    cfg: VerdictConfig, work: Work, items: int, budget: Budget | None = None
) -> Iterator[ArchivedJudge]:
    """The judge, metered; what an earlier, killed attempt bought is booked with the rest.

    Args:
        cfg: the judge and its archive.
        work: of the stage that asks; its entry is the buyer.
        items: how many questions it is about, for the ledger.
        budget: a spending cap shared with other stages; None = the judge's own.
    """
    judge = judging.build(cfg.judge, cfg.archive, buyer=work.path.name, budget=budget)
    judge.shown(work.progress, work.title)
    with work.meter.phase("judge", items=items, models=judge.models) as phase:
        yield judge
        # Killed right after its last judgement, an attempt has booked all of them already.
        bought = judge.usage.since(judging.booked(work.meter))
        phase.add_api(bought.calls, bought.prompt_tokens, bought.completion_tokens, bought.money)
    work.meta.update(judge=judge.name, note=judge.note)


LOSSES = Stage("losses", 2, measure_losses)
COMPARE = Stage("compare", 1, compare)
GRADE = Stage("grade", 1, grade)
