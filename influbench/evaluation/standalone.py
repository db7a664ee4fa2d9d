"""Evaluate one student by itself, and file the result: ``influbench evaluate``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from influbench import data, executors, models
from influbench.config import Config, Seed, transport
from influbench.data import DataConfig
from influbench.data.records import LedgerRow, ModelRef, Question
from influbench.errors import UserError
from influbench.evaluation import answers as answering
from influbench.evaluation import evaluator, judge_check, recorded
from influbench.evaluation.answers import AnswerSettings
from influbench.evaluation.evaluator import Evaluated, EvaluationConfig, Evaluator
from influbench.evaluation.judge_check import Examination
from influbench.evaluation.suite import Baseline, Material
from influbench.executors import ExecutorConfig
from influbench.files import digest
from influbench.judging import JudgeConfig
from influbench.models import ModelConfig
from influbench.models.embedded import is_embedded
from influbench.models.templates import templated
from influbench.results import blank_row, publish, result_file, row_of
from influbench.store import Store
from influbench.store.session import Session

MT_BENCH_TEMPERATURES = {"writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1}
"""FastChat's, by category; all others are answered greedily."""


class TurnSettings(AnswerSettings):
    """Two-turn answers as FastChat has them."""

    temperatures: dict[str, float] = MT_BENCH_TEMPERATURES


class SuiteSettings(EvaluationConfig):
    """As in a run, with MT-Bench's own temperatures."""

    turns: TurnSettings = TurnSettings()  # pyright: ignore[reportIncompatibleVariableOverride]  # frozen


class SourceSettings(DataConfig):
    """As in a run, with the public benchmarks for defaults."""

    evaluation: str = "alpaca_eval"
    questions: str = "mt_bench"


class EvaluateConfig(Config):
    """Which student is evaluated, on what, and how; names are those of a run's settings."""

    student: ModelConfig
    baseline: str | None = Field(
        default=None, description="a model, or a file of outputs; None = the prompts' own outputs"
    )
    seed: Seed = 0
    device: str = transport("auto", "where all models stand; judge.device for the judge")
    limit: int | None = Field(default=None, ge=1, description="the first N items of each suite")
    judge: JudgeConfig | None = None
    data: SourceSettings = SourceSettings()
    evaluation: SuiteSettings = SuiteSettings()
    preferences: str | None = Field(default=None, description="what the judge is checked on")
    preferences_limit: int | None = Field(default=None, ge=1)

    def placed_judge(self) -> JudgeConfig | None:
        """The judge, which stands where the student does unless its own settings say where."""
        return self.judge and self.judge.placed(self.device)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All that is known of a student after its evaluation."""

    cfg: EvaluateConfig
    student: str
    baseline: str
    marks: Evaluated
    examined: Examination | None
    decoding: Sequence[str]
    """How answers were written, a line each kind."""
    ledger: Sequence[LedgerRow]
    identity: str
    """Digest of the settings, the student and the baseline."""
    notes: Sequence[str]


def evaluate_on(where: ExecutorConfig, cfg: EvaluateConfig, store: Store) -> Evaluation:
    """:func:`evaluate` as one task of an executor.

    Raises:
        UserError: see :func:`evaluate`; or the executor is not there.
    """
    with closing(executors.build(where, store.root / ".jobs")) as workers:
        found = executors.mapped(workers, _task, [(cfg, store.root)])
        return next(found)[1].or_raise()


def _task(cfg: EvaluateConfig, root: Path, _patient: bool) -> Evaluation:
    return evaluate(cfg, Session(Store(root)))


def evaluate(cfg: EvaluateConfig, session: Session) -> Evaluation:
    """Evaluates a student.

    Args:
        cfg: the suites and all settings.
        session: keeps answers, judgements and harness results.

    Raises:
        UserError: something given cannot work, which is said before the first second of compute;
            or the judge fails or reaches its spending cap; what was bought is kept.
    """
    needs = evaluator.needs(cfg.evaluation.suites)
    turns = {need.turns for need in needs}
    material = Material(
        source=cfg.data.evaluation,
        prompts=data.load_evaluation(cfg.data)[: cfg.limit] if "one" in turns else (),
        questions=data.load_questions(cfg.data)[: cfg.limit] if "two" in turns else (),
    )
    ready = evaluator.prepare(
        _limited(cfg), material, cfg.placed_judge(), seed=cfg.seed, device=cfg.device
    )
    preferences = (
        recorded.read_preferences(cfg.preferences, cfg.preferences_limit) if cfg.preferences else []
    )
    if preferences and cfg.judge is None:
        raise UserError("preferences: they are for a judge to be checked on: give --judge")
    baseline = _baseline(cfg, {need.baseline for need in needs}, material.prompts)
    asked = (cfg.evaluation.answers, cfg.evaluation.turns)
    if baseline and baseline.model and any(part.engine == "server" for part in asked):
        raise UserError(
            "engine = server: a server that is running has one model, and the baseline is another: "
            "take vllm, which is started on each, or give the baseline's outputs as a file"
        )
    name = called(cfg.student.name)
    student = templated(cfg.student, session.run)
    examined = None
    if preferences and (judge := cfg.placed_judge()) is not None:
        examined = judge_check.examine(judge, preferences, session)
    marks = ready.evaluate(session, student, label=name, baseline=baseline)
    decoding = _decoding(ready)
    told = [cfg.identity(), student.digest, _identity(baseline)]
    return Evaluation(
        cfg=cfg,
        student=name,
        baseline=baseline.name if baseline else "",
        marks=marks,
        examined=examined,
        decoding=decoding,
        ledger=session.ledger,
        identity=digest(json.dumps(told, sort_keys=True)),
        notes=_notes(student, baseline, marks, examined),
    )


def called(model: str) -> str:
    """A short name for a model: a hub or embedded name, or the last two parts of a folder."""
    folder = Path(model).expanduser()
    if is_embedded(model) or not folder.is_dir():
        return model
    return "/".join(folder.resolve().parts[-2:]).lstrip("/")


def run_name(found: Evaluation) -> str:
    """What an evaluation's file is called: the student, and a digest of what it was put through."""
    plain = re.sub(r"[^\w.=+-]+", "-", found.student).strip("-.") or "student"
    return f"{plain},{found.identity[:8]}"


def save(found: Evaluation, root: Path, study: str, run: str) -> Path:
    """Writes ``root/study/run.json``; one that holds this very result keeps its date and commit.

    Metrics and outcomes begin with their suite, such as ``alpaca_eval/win_rate``; the judge's
    behaviour stands beside them as ``alpaca_eval/judge_prefers_first``. Harness numbers are
    ``harness:TASK/metric/filter``.

    Raises:
        UserError: a name that is no file name.
    """
    blank = blank_row(study, run, found.student, found.cfg.seed)
    rows = [row_of(blank, *number) for number in found.marks.numbers().items()]
    outcomes = {found.student: found.marks.outcomes()}
    told = replace(found, notes=[*found.decoding, *found.notes])
    result = publish(_settings(found), found.cfg.device, rows, told, outcomes=outcomes)
    return result_file.write_if_new(root, study, run, result)


def _limited(cfg: EvaluateConfig) -> EvaluationConfig:
    harness = cfg.evaluation.harness.model_copy(update={"limit": cfg.limit})
    return cfg.evaluation.model_copy(update={"harness": harness} if cfg.limit else {})


def _baseline(
    cfg: EvaluateConfig, wanted: set[str], prompts: Sequence[Question]
) -> Baseline | None:
    """A model or its outputs; None where nothing is compared."""
    is_file = cfg.baseline is not None and Path(cfg.baseline).is_file()
    if "model" in wanted and (cfg.baseline is None or is_file):
        raise UserError(
            "mt_bench_pairwise needs --baseline MODEL, a model that answers both turns, got "
            f"{cfg.baseline or 'none'}"
        )
    if cfg.baseline is None:
        if "answers" not in wanted:
            return None
        source = cfg.data.evaluation
        return Baseline(
            name=f"outputs of {called(source)}", outputs=recorded.own_outputs(prompts, source)
        )
    if is_file:
        name, found = recorded.read_outputs(Path(cfg.baseline), prompts)
        return Baseline(name=name, outputs=found)
    # The template is the student's: a baseline has its own.
    return Baseline(name=called(cfg.baseline), model=models.resolve(cfg.baseline))


def _identity(baseline: Baseline | None) -> str:
    if baseline is None:
        return ""
    return baseline.model.digest if baseline.model else digest(baseline.outputs)


def _decoding(ready: Evaluator) -> list[str]:
    named = {suite.needs.turns for suite in ready.suites if suite.name != "losses"}
    kinds = {"one": "one-turn answers", "two": "two-turn answers"}
    return [
        f"{said}: {answering.described(ready.decoding[turns])}"
        for turns, said in kinds.items()
        if turns in named
    ]


def _notes(
    student: ModelRef, baseline: Baseline | None, marks: Evaluated, examined: Examination | None
) -> list[str]:
    notes = list(marks.notes)
    if baseline and baseline.model and baseline.model.digest == student.digest:
        notes.insert(0, f"the baseline {baseline.name} is the student itself: equal answers tie")
    return notes if examined is None else [*notes, examined.described]


def _settings(found: Evaluation) -> Mapping[str, Any]:
    judge = found.cfg.judge
    prices = (
        {}
        if judge is None
        else {"prompt_price": judge.prompt_price, "completion_price": judge.completion_price}
    )
    # Not all of it: an address may hold a name or a password.
    return {**found.cfg.identity(), **prices, "baseline_name": found.baseline}
