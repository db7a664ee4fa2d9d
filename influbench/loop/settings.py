"""All settings of one run of the loop, composed of the stages' own."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from influbench.config import Config, transport
from influbench.data import DataConfig
from influbench.evaluation.suite import EvaluationConfig
from influbench.generation.attempts import GenerationConfig
from influbench.judging import JudgeConfig
from influbench.models import ModelConfig
from influbench.preferences import PreferenceConfig
from influbench.training import SFTConfig, WarmupConfig
from influbench.training.dpo import DPOStageConfig

BASELINE = "none"
"""The estimator that teaches nothing; its student is the baseline of the win rate."""


class ScoringConfig(Config):
    """Which estimator teaches, and which are scored beside it."""

    estimator: str = Field(
        default="exact", description="a registered name, module:Class, or 'none'"
    )
    options: dict[str, Any] = Field(default_factory=dict)
    compare: tuple[str, ...] = Field(
        default=(), description="also scored on the same candidates, for the agreement table"
    )
    compute: Literal["float32", "bfloat16", "tf32"] = "float32"
    attention: Literal["sdpa", "eager"] = "sdpa"
    max_length: int | None = None
    chunk_size: int = transport(8, "candidates between two safe points", gt=0)
    workers: int = transport(1, "processes that share the candidates of a method", gt=0)


class SizesConfig(Config):
    """How much the teacher writes."""

    warmup: int = Field(default=1000, ge=2, description="pairs that the student is warmed up on")
    candidates: int = Field(default=10000, ge=2)
    training: int = Field(default=10000, ge=1, description="pairs that the final student learns")


class RunConfig(Config):
    """One configuration of the loop. Presets are such objects in YAML."""

    name: str = transport("run", "the study that results are filed under")
    seed: int = 0
    rounds: int = Field(default=1, ge=1)
    teacher: ModelConfig
    student: ModelConfig
    judge: JudgeConfig = JudgeConfig()
    data: DataConfig = DataConfig()
    sizes: SizesConfig = SizesConfig()
    generation: GenerationConfig = GenerationConfig()
    warmup: WarmupConfig = WarmupConfig()
    scoring: ScoringConfig = ScoringConfig()
    preferences: PreferenceConfig = PreferenceConfig()
    dpo: DPOStageConfig = DPOStageConfig()
    sft: SFTConfig = SFTConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    stop_after: Literal["scores", "end"] = Field(
        default="end", description="scores: nothing is taught, trained or evaluated; one round"
    )
