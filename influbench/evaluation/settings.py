"""On what students are evaluated, and how: what a configuration says."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from influbench.config import Config, Seed, transport
from influbench.generation.settings import EngineSettings, Sampling
from influbench.models.precision import Products

SUITES = ("losses", "alpaca_eval", "mt_bench", "mt_bench_pairwise", "head_to_head")
"""By name; and ``harness:TASK`` for each task of lm-eval."""
PREFIX = "harness:"
Orders = Literal["both", "random"]


class AnswerSampling(Sampling):
    """Greedy unless a temperature is given."""

    temperature: float = Field(default=0.0, ge=0, description="0 takes the likeliest token")


class AnswerSettings(EngineSettings):
    """How a model answers: what a user may set."""

    sampling: AnswerSampling = AnswerSampling()
    temperatures: dict[str, float] = Field(
        default_factory=dict, description="by category, where it is not sampling.temperature"
    )
    questions_per_chunk: int = Field(default=32, ge=1, description="between two safe points")
    batch_size: int = Field(default=32, ge=1, description="rows decoded at a time")


class HarnessSettings(Config):
    """How tasks of the harness are put; the files that they read are an input, by content."""

    shots: int | None = Field(default=None, ge=0, description="None = the paper's, else its own")
    limit: int | None = Field(default=None, ge=1, description="the first N items of each task")
    chat: bool = Field(
        default=False, description="questions through the chat template, examples as turns"
    )
    seed: Seed = Field(default=1234, description="of the choice of few-shot examples; its own")
    max_length: int | None = Field(default=None, description="of the context; None = the model's")
    batch_size: int = transport(8, gt=0)
    include_path: Path | None = transport(
        None, "a folder of task files, which are then all that is offered"
    )
    gsm8k_train: Path | None = transport(None, "files of the task gsm8k_local")
    gsm8k_test: Path | None = transport(None)


class EvaluationConfig(Config):
    """On what students are evaluated, and how."""

    suites: tuple[str, ...] = Field(
        default=("losses", "alpaca_eval", "mt_bench"),
        description=f"any of {', '.join(SUITES)} and {PREFIX}TASK",
    )
    answers: AnswerSettings = AnswerSettings()
    turns: AnswerSettings = Field(
        default=AnswerSettings(), description="answers of the two-turn questions"
    )
    dtype: Products = Field(default="float32", description="of students while they answer")
    orders: Orders = Field(default="both", description="in which the judge sees two answers")
    difficulty: Path | None = Field(
        default=None, description="table of instruction_difficulty by instruction or index"
    )
    gamed: Path | None = Field(
        default=None, description="AlpacaEval's df_gamed.csv, for the official variant"
    )
    harness: HarnessSettings = HarnessSettings()
