"""What an evaluation will do, settled and refused before the first second of compute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from influbench import data, models
from influbench.config import Config
from influbench.data import DataConfig
from influbench.errors import UserError
from influbench.evaluation import judge_check, outputs
from influbench.evaluation.answers import AnswerConfig
from influbench.evaluation.conversation import reference_block
from influbench.evaluation.judge_check import Preference
from influbench.evaluation.length_control import Gamed, read_gamed
from influbench.evaluation.suites import harness_task
from influbench.evaluation.suites.harness import OFFLINE_GSM8K
from influbench.evaluation.suites.harness_task import TaskConfig
from influbench.files import digest
from influbench.judging import JudgeConfig
from influbench.models.embedded import is_embedded
from influbench.records import Answer, ModelRef, Question

ONE_TURN = ("alpaca_eval", "head_to_head")
TWO_TURNS = ("mt_bench", "mt_bench_pairwise")
HARNESS = "harness:"
MT_BENCH_TEMPERATURES = {"writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1}
"""FastChat's, by category; all others are answered greedily."""


class EvaluateConfig(Config):
    """What a student is evaluated on, and how."""

    student: str
    suites: tuple[str, ...]
    baseline: str | None = Field(
        default=None, description="a model, or a file of outputs; None = the prompts' own outputs"
    )
    prompts: str = "alpaca_eval"
    questions: str = "mt_bench"
    question_answers: str | None = None
    limit: int | None = Field(default=None, ge=1, description="the first N items of each suite")
    orders: Literal["both", "random"] = "both"
    seed: int = 0
    judge: JudgeConfig | None = None
    answers: AnswerConfig = AnswerConfig()
    turns: AnswerConfig = AnswerConfig(temperatures=MT_BENCH_TEMPERATURES)
    difficulty: Path | None = None
    gamed: Path | None = None
    preferences: str | None = Field(default=None, description="what the judge is checked on")
    preferences_limit: int | None = Field(default=None, ge=1)
    harness: TaskConfig = TaskConfig(task="")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that an evaluation needs, read and checked."""

    student: str
    """What it is called in results."""
    student_ref: ModelRef
    baseline: str
    """What it is called in results; empty where nothing is compared."""
    baseline_ref: ModelRef | None
    outputs: Sequence[Answer]
    """The baseline's, where it is no model."""
    prompts: Sequence[Question]
    questions: Sequence[Question]
    difficulty: dict[str, float] | None
    gamed: Gamed | None
    preferences: Sequence[Preference]
    tasks: dict[str, tuple[TaskConfig, str]]
    """By suite: the settings, and the digest of what they read."""
    notes: Sequence[str]

    def baseline_identity(self) -> str:
        """Tells one baseline from another."""
        return self.baseline_ref.digest if self.baseline_ref else digest(self.outputs)


def make(cfg: EvaluateConfig) -> Plan:
    """Reads and checks all that an evaluation needs.

    Raises:
        UserError: an unknown suite, no judge or baseline where one is needed, no such model, bad
            data, or questions without the references that they are graded against.
    """
    tasks = _tasks(cfg)
    _check_suites(cfg)
    one, two = (any(s in cfg.suites for s in kind) for kind in (ONE_TURN, TWO_TURNS))
    source = DataConfig(
        evaluation=cfg.prompts, questions=cfg.questions, question_answers=cfg.question_answers
    )
    prompts = data.load_evaluation(source)[: cfg.limit] if one else []
    questions = data.load_questions(source)[: cfg.limit] if two else []
    for question in questions:
        for turn in range(len(question.turns)):
            reference_block(question, turn)
    student, notes = models.resolve(cfg.student), list[str]()
    name, ref, found = _baseline(cfg, prompts)
    if ref is not None and ref.digest == student.digest:
        notes.append(f"the baseline {name} is the student itself: equal answers tie")
    gamed = None if cfg.gamed is None else read_gamed(cfg.gamed)
    return Plan(
        student=called(cfg.student),
        student_ref=student,
        baseline=name,
        baseline_ref=ref,
        outputs=found,
        prompts=prompts,
        questions=questions,
        difficulty=_difficulty(cfg, gamed, prompts),
        gamed=gamed,
        preferences=(
            []
            if cfg.preferences is None
            else judge_check.read_preferences(cfg.preferences, cfg.preferences_limit)
        ),
        tasks=tasks,
        notes=notes,
    )


def called(model: str) -> str:
    """A short name for a model: a hub or embedded name, or the last two parts of a folder."""
    folder = Path(model).expanduser()
    if is_embedded(model) or not folder.is_dir():
        return model
    return "/".join(folder.resolve().parts[-2:]).lstrip("/")


def _check_suites(cfg: EvaluateConfig) -> None:
    known = [*ONE_TURN, *TWO_TURNS]
    for suite in cfg.suites:
        if suite not in known and not suite.startswith(HARNESS):
            raise UserError(
                f"--suite {suite}: expected one or more of {', '.join(known)} and {HARNESS}TASK, "
                "separated by commas"
            )
    judged = [suite for suite in cfg.suites if suite in known]
    if not cfg.suites:
        raise UserError(f"--suite: expected one or more of {', '.join(known)}, {HARNESS}TASK")
    if (judged or cfg.preferences) and cfg.judge is None:
        raise UserError(
            f"{judged[0] if judged else '--preferences'} needs a judge: give --judge KIND:MODEL, "
            "for example local:smollm2-135m-instruct or openai:gpt-4-turbo"
        )
    is_model = cfg.baseline is not None and not Path(cfg.baseline).is_file()
    if "mt_bench_pairwise" in cfg.suites and not is_model:
        raise UserError(
            "mt_bench_pairwise needs --baseline MODEL, a model that answers both turns, got "
            f"{cfg.baseline or 'none'}"
        )
    if cfg.gamed is not None and cfg.difficulty is not None:
        raise UserError("--gamed has the difficulties in it: give either --gamed or --difficulty")


def _tasks(cfg: EvaluateConfig) -> dict[str, tuple[TaskConfig, str]]:
    found: dict[str, tuple[TaskConfig, str]] = {}
    for suite in cfg.suites:
        if not suite.startswith(HARNESS):
            continue
        task = suite.removeprefix(HARNESS)
        changed: dict[str, object] = {"task": task, "limit": cfg.limit}
        local = cfg.harness.gsm8k_train and cfg.harness.gsm8k_test
        if task == OFFLINE_GSM8K and local:
            changed["include_path"] = None
        else:
            changed |= {"gsm8k_train": None, "gsm8k_test": None}
        own = cfg.harness.model_copy(update=changed)
        found[suite] = own, harness_task.check(own)
    return found


def _baseline(
    cfg: EvaluateConfig, prompts: Sequence[Question]
) -> tuple[str, ModelRef | None, Sequence[Answer]]:
    """Name, and either a model or its outputs."""
    if cfg.baseline is None:
        if not prompts:
            return "", None, []
        return f"outputs of {called(cfg.prompts)}", None, outputs.own_outputs(prompts, cfg.prompts)
    if Path(cfg.baseline).is_file():
        name, found = outputs.read_outputs(Path(cfg.baseline), prompts)
        return name, None, found
    return called(cfg.baseline), models.resolve(cfg.baseline), []


def _difficulty(
    cfg: EvaluateConfig, gamed: Gamed | None, prompts: Sequence[Question]
) -> dict[str, float] | None:
    if "alpaca_eval" not in cfg.suites:
        return None
    if gamed is not None and cfg.gamed is not None:
        return outputs.gamed_difficulties(cfg.prompts, gamed, cfg.gamed, prompts)
    if cfg.difficulty is not None:
        return outputs.difficulties(cfg.prompts, cfg.difficulty, prompts)
    return None
