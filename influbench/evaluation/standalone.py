"""Evaluate one student on the suites asked for: ``influbench evaluate``.

Every step is a stage of the store: killed and started again, it goes on where it was, and what was
judged before is not asked again. All that can be refused is refused before the first answer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from influbench.config import Config
from influbench.evaluation import answers as answering
from influbench.evaluation import judge_quality, numbers, plan, suite, verdicts
from influbench.evaluation.answers import AnswerConfig
from influbench.evaluation.numbers import Numbers
from influbench.evaluation.plan import HARNESS, EvaluateConfig, Plan
from influbench.evaluation.suite import VerdictConfig
from influbench.evaluation.suites import harness_task
from influbench.evaluation.suites.harness_task import TaskNumber
from influbench.files import digest
from influbench.judging import Budget
from influbench.records import Answer, LedgerRow, ModelRef, Outcome, Question
from influbench.statistics.estimate import Estimate
from influbench.store import Entry, Stage, Store


@dataclass(frozen=True, kw_only=True)
class Part:
    """One suite's share of the result."""

    suite: str
    numbers: Numbers
    quality: dict[str, Estimate]
    """How the judge behaved here: see ``judge_quality``."""
    outcomes: Sequence[Outcome]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All that is known of a student after its evaluation."""

    cfg: EvaluateConfig
    student: str
    baseline: str
    parts: Sequence[Part]
    ledger: Sequence[LedgerRow]
    notes: Sequence[str]
    judge: str
    """Its name; empty where none was asked."""
    identity: str
    """Digest of the settings, the student and the baseline."""


@dataclass
class _Desk:
    """The stages of one evaluation over one store, and what they cost."""

    cfg: EvaluateConfig
    store: Store
    plan: Plan
    budget: Budget
    ledger: dict[tuple[str, str], LedgerRow] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    judges: dict[str, str] = field(default_factory=dict)

    def do(self, stage: Stage, cfg: Config, *inputs: Any, label: str) -> Entry:
        entry = self.store.run(stage, cfg, *inputs, label=label)
        rows = {(entry.key, row.phase): row for row in entry.ledger()}
        if entry.cached and not rows.keys() <= self.ledger.keys():
            # The cap is on what this evaluation costs, whichever attempt paid.
            self.budget.spent += sum(row.money for row in rows.values())
        self.ledger |= rows
        return entry

    def ask(self, stage: Stage, *inputs: Any, label: str) -> list[Outcome]:
        assert self.cfg.judge is not None, "the plan refuses judged suites without a judge"
        cfg = VerdictConfig(
            judge=self.cfg.judge,
            orders=self.cfg.orders,
            seed=self.cfg.seed,
            archive=suite.archive(self.store),
        )
        within = replace(stage, function=partial(stage.function, budget=self.budget))
        entry = self.do(within, cfg, *inputs, label=label)
        self.judges[entry.meta["judge"]] = entry.meta["note"]
        if "described" in entry.meta:
            self.notes.append(entry.meta["described"])
        return entry.records("outcomes", Outcome)

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        """The student's own answers."""
        return self._answers(self._decoding(questions), questions, *self._student())

    def against(self, questions: Sequence[Question]) -> list[Answer]:
        """The answers to beat."""
        if self.plan.baseline_ref is None:
            return list(self.plan.outputs)
        # The template is the student's: a baseline has its own.
        cfg = self._decoding(questions).model_copy(update={"chat_template": None})
        return self._answers(cfg, questions, self.plan.baseline, self.plan.baseline_ref)

    def _student(self) -> tuple[str, ModelRef]:
        return self.plan.student, self.plan.student_ref

    def _decoding(self, questions: Sequence[Question]) -> AnswerConfig:
        return self.cfg.turns if self._several(questions) else self.cfg.answers

    def _answers(
        self, cfg: AnswerConfig, questions: Sequence[Question], who: str, ref: ModelRef
    ) -> list[Answer]:
        label = f"{who}-turns" if self._several(questions) else who
        entry = self.do(answering.STAGE, cfg, questions, ref, label=label)
        if empty := entry.meta["empty_answers"]:
            self.notes.append(f"answers of {label}: {empty} turns of {len(questions)} items empty")
        return entry.records("answers", Answer)

    def _several(self, questions: Sequence[Question]) -> bool:
        return any(len(question.turns) > 1 for question in questions)


def evaluate(cfg: EvaluateConfig, store: Store) -> Evaluation:
    """Evaluates a student.

    Args:
        cfg: the suites and all settings.
        store: keeps answers, judgements and harness results.

    Raises:
        UserError: something given cannot work (see ``plan.make``), or the judge fails or reaches
            its spending cap; what was bought is kept.
    """
    made = plan.make(cfg)
    desk = _Desk(cfg, store, made, Budget(cfg.judge.max_dollars if cfg.judge else None))
    if made.preferences:
        desk.ask(verdicts.JUDGE_CHECK, made.preferences, label="preferences")
    parts = [_part(desk, name) for name in cfg.suites]
    notes = [note for note in desk.judges.values() if note]
    told = [cfg.identity(), made.student_ref.digest, made.baseline_identity()]
    return Evaluation(
        cfg=cfg,
        student=made.student,
        baseline=made.baseline,
        parts=parts,
        ledger=list(desk.ledger.values()),
        notes=list(dict.fromkeys([*made.notes, *notes, *desk.notes, *_unjudged(parts)])),
        judge=", ".join(desk.judges),
        identity=digest(json.dumps(told, sort_keys=True)),
    )


def _part(desk: _Desk, name: str) -> Part:
    if name.startswith(HARNESS):
        return _harness(desk, name)
    made, label = desk.plan, desk.plan.student
    if name in ("alpaca_eval", "head_to_head"):
        ours = desk.answer(made.prompts)
        pair = (made.prompts, ours, desk.against(made.prompts))
        if name == "head_to_head":
            outcomes = desk.ask(verdicts.HEAD_TO_HEAD, *pair, label=label)
            found = numbers.head_to_head_numbers(outcomes)
        else:
            outcomes = desk.ask(suite.COMPARE, *pair, label=label)
            found = numbers.alpaca_eval_numbers(outcomes, made.difficulty, made.gamed)
    else:
        ours = desk.answer(made.questions)
        if name == "mt_bench":
            outcomes = desk.ask(suite.GRADE, made.questions, ours, label=label)
            found = numbers.mt_bench_numbers(outcomes)
        else:
            theirs = desk.against(made.questions)
            outcomes = desk.ask(verdicts.PAIRWISE, made.questions, ours, theirs, label=label)
            found = numbers.pairwise_numbers(outcomes)
    quality = judge_quality.quality(outcomes)
    return Part(suite=name, numbers=found, quality=quality, outcomes=outcomes)


def _harness(desk: _Desk, name: str) -> Part:
    cfg, content = desk.plan.tasks[name]
    entry = desk.do(
        harness_task.STAGE,
        cfg,
        content,
        desk.plan.student_ref,
        label=f"{cfg.task}-{desk.plan.student}",
    )
    found = {
        n.name: Estimate(value=n.value, stderr=n.stderr, n=n.n, unit="fraction")
        for n in entry.records("numbers", TaskNumber)
    }
    shots = ", ".join(f"{task} {count}" for task, count in entry.meta["shots"].items())
    desk.notes.append(f"{name}: few-shot examples: {shots}")
    outcomes = entry.records("outcomes", Outcome)
    return Part(suite=name, numbers=found, quality={}, outcomes=outcomes)


def _unjudged(parts: Sequence[Part]) -> list[str]:
    judged = [part for part in parts if not part.suite.startswith(HARNESS)]
    return [note for p in judged if (note := numbers.unjudged(p.suite, p.numbers, p.quality))]
