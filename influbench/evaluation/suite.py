"""What a suite of the evaluation is, and the sitting in which it marks one student.

A suite asks a student questions, has the answers judged or measured in stages of their own (so
that another judge buys judgements and nothing else again), keeps one outcome an item, and makes
numbers of the outcomes. The loop and ``influbench evaluate`` ask the same suites.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from influbench import judging
from influbench.config import Config, Seed, transport
from influbench.data.records import Answer, Example, ModelRef, Outcome, Question
from influbench.evaluation import answers as answering
from influbench.evaluation.answers import AnswerConfig
from influbench.evaluation.settings import Orders
from influbench.judging import ArchivedJudge, JudgeConfig
from influbench.statistics.estimate import Estimate
from influbench.store import Entry, Stage, Work
from influbench.store.budget import Budget
from influbench.store.session import Session

Numbers = Mapping[str, Estimate]
"""What a suite publishes, by name."""


class VerdictConfig(Config):
    """A judge's marks."""

    judge: JudgeConfig
    orders: Orders = "both"
    seed: Seed = 0
    archive: Path | None = transport(None)


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a suite must be given; known before anything is read."""

    turns: Literal["one", "two", "none"] = "none"
    """Of the questions that it asks."""
    judge: bool = False
    baseline: Literal["none", "answers", "model"] = "none"
    """Whom the student is compared with: answers may come from a file, a model writes them."""


@dataclass(frozen=True)
class Marks:
    """What a suite says of one student."""

    outcomes: Sequence[Outcome]
    """One an item and metric."""
    numbers: Numbers
    """Made of the outcomes, or by the suite's own program (the harness)."""


class Suite(Protocol):
    """One suite; it holds what it read when it was made, and nothing of a student."""

    @property
    def name(self) -> str:
        """As settings and results call it."""
        ...

    @property
    def needs(self) -> Needs:
        """Holds for every suite of this name."""
        ...

    def mark(self, sitting: Sitting) -> Marks:
        """Runs the suite's stages on the student of a sitting."""
        ...


@dataclass(frozen=True, kw_only=True)
class Material:
    """What students are evaluated on."""

    source: str = ""
    """Of the prompts, as ``data.evaluation`` says it."""
    prompts: Sequence[Question] = ()
    """Of one turn."""
    questions: Sequence[Question] = ()
    """Of two turns."""
    reference: Sequence[Example] = ()
    """The held-out pairs that define what helps; empty where there are none."""

    def of(self, turns: str) -> Sequence[Question]:
        """The questions of ``one`` or ``two`` turns."""
        return self.prompts if turns == "one" else self.questions


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """Whom a student is compared with."""

    name: str
    model: ModelRef | None = None
    outputs: Sequence[Answer] = ()
    """Where it is no model."""


@dataclass(frozen=True, kw_only=True)
class Sitting:
    """One student before all of its suites: what they share, and what they leave."""

    session: Session
    student: ModelRef
    label: str
    """What the student is called in stages and results."""
    material: Material
    baseline: Baseline | None
    decoding: Mapping[str, AnswerConfig]
    """By ``one`` and ``two`` turns."""
    verdict: VerdictConfig | None
    device: str
    judges: dict[str, str] = field(default_factory=dict)
    """Name of each judge that was asked -> what a reader of its marks must know."""
    notes: list[str] = field(default_factory=list)

    def answers(self, turns: str) -> list[Answer]:
        """The student's own."""
        return self._answers(turns, self.label, self.student)

    def baseline_answers(self, turns: str) -> list[Answer]:
        """Those to beat."""
        against = self.baseline
        assert against is not None, "a suite that needs a baseline is not asked without one"
        if against.model is None:
            return list(against.outputs)
        return self._answers(turns, against.name, against.model)

    def run(self, stage: Stage, cfg: Config, *inputs: Any, label: str = "") -> Entry:
        """Runs a stage of a suite; what it costs is in the session's ledger."""
        return self.session.run(stage, cfg, *inputs, label=label or self.label)

    def judged(self, stage: Stage, *inputs: Any, label: str = "") -> list[Outcome]:
        """Runs a stage that asks the judge, under the spending cap of the whole command."""
        assert self.verdict is not None, "a suite that needs a judge is not asked without one"
        entry = self.session.ask(stage, self.verdict, *inputs, label=label or self.label)
        self.judges[entry.meta["judge"]] = entry.meta["note"]
        return entry.records("outcomes", Outcome)

    def _answers(self, turns: str, who: str, model: ModelRef) -> list[Answer]:
        questions = self.material.of(turns)
        label = f"{who}-turns" if turns == "two" else who
        cfg = self.decoding[turns]
        entry = self.session.ask(answering.STAGE, cfg, questions, model, label=label)
        self.notes.extend(answering.said_of(entry.meta, label, questions))
        return entry.records("answers", Answer)


def verdicts(name: str, version: int, ask: Callable[..., list[Outcome]]) -> Stage:
    """A stage that asks a judge and writes ``outcomes``.

    Args:
        name: of the stage.
        version: of the stage.
        ask: ``ask(cfg, judge, items, *answers)``; a function of a module, for other processes.
    """
    return Stage(name, version, partial(_judge, ask))


def _judge(
    ask: Callable[..., list[Outcome]],
    cfg: VerdictConfig,
    items: Sequence[Any],
    *answers: Sequence[Answer],
    work: Work,
    budget: Budget | None = None,
) -> None:
    with asked(cfg, work, len(items), budget) as judge:
        outcomes = ask(cfg, judge, items, *answers)
    work.write("outcomes", outcomes)


@contextmanager
def asked(
    cfg: VerdictConfig, work: Work, items: int, budget: Budget | None = None
) -> Generator[ArchivedJudge]:
    """The judge, metered; what an earlier, killed attempt bought is booked with the rest.

    Args:
        cfg: the judge and its archive.
        work: of the stage that asks; its entry is the buyer.
        items: how many questions it is about, for the ledger.
        budget: a spending cap shared with other stages; None = the judge's own.
    """
    with work.meter.phase("load"):
        judge = judging.build(cfg.judge, cfg.archive, buyer=work.path.name, budget=budget)
    judge.shown(work.progress, work.title)
    with work.meter.phase("judge", items=items, models=judge.models) as phase:
        yield judge
        # Killed right after its last judgement, an attempt has booked all of them already.
        bought = judge.usage.since(judging.booked(work.meter))
        phase.add_api(bought.calls, bought.prompt_tokens, bought.completion_tokens, bought.money)
    work.meta.update(judge=judge.name, note=judge.note)
