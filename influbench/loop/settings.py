"""All settings of one run of the loop, composed of the stages' own."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from influbench.config import Config, Seed, seldom, transport
from influbench.data import DataConfig
from influbench.evaluation.settings import EvaluationConfig
from influbench.generation.settings import GenerationSettings
from influbench.judging import JudgeConfig
from influbench.loop import arms
from influbench.loop.preferences import PreferenceConfig
from influbench.models.settings import ModelConfig
from influbench.scoring.settings import ScoringSettings
from influbench.training.settings import DPOSettings, SFTSettings, WarmupSettings


class ScoringConfig(ScoringSettings):
    """Which estimator teaches, which are scored beside it, and how all are run."""

    estimator: str = Field(
        default="exact",
        description="an arm: a registered name, module:Class, none, llm2llm, or flipped:, "
        "bootstrap: or filter: before a name",
    )
    options: dict[str, Any] = Field(default_factory=dict)
    compare: tuple[str, ...] = Field(
        default=(),
        description="also scored on the same candidates, for the agreement table; a name may carry "
        "options, such as gradient_dot(layers=mlp)",
    )

    def options_of(self, name: str) -> dict[str, Any]:
        """The options of one method: those that are set are of the one that the arm teaches by."""
        return self.options if name == arms.parse(self.estimator).estimator else {}

    def knobs(self) -> ScoringSettings:
        """How all of them are run."""
        return ScoringSettings(**{n: getattr(self, n) for n in ScoringSettings.model_fields})


class TeacherConfig(ModelConfig):
    """The teacher: a model that is here, or one behind an endpoint, which cannot be taught."""

    kind: Literal["weights", "endpoint"] = seldom(
        "weights",
        "endpoint: a chat endpoint at generation.server_url, where the model is called name",
    )


class SizesConfig(Config):
    """How much the teacher writes."""

    warmup: int = Field(default=1000, ge=2, description="pairs that the student is warmed up on")
    candidates: int = Field(default=10000, ge=2)
    training: int = Field(default=10000, ge=1, description="pairs that the final student learns")


class RunConfig(Config):
    """One configuration of the loop. Presets are such objects in YAML."""

    name: str = transport("run", "the study that results are filed under")
    seed: Seed = 0
    device: str = transport("auto", "where all models of the run stand; judge.device for the judge")
    rounds: int = Field(default=1, ge=1)
    teacher: TeacherConfig
    student: ModelConfig
    students: tuple[ModelConfig, ...] = Field(
        default=(),
        description="other students that learn every arm's training data too, beside the one that "
        "the candidates are scored for: do the data help another model?",
    )
    judge: JudgeConfig = JudgeConfig()
    data: DataConfig = DataConfig()
    sizes: SizesConfig = SizesConfig()
    generation: GenerationSettings = GenerationSettings()
    warmup: WarmupSettings = WarmupSettings()
    scoring: ScoringConfig = ScoringConfig()
    preferences: PreferenceConfig = PreferenceConfig()
    dpo: DPOSettings = DPOSettings()
    sft: SFTSettings = SFTSettings()
    evaluation: EvaluationConfig = EvaluationConfig()
    keep_checkpoints: int = seldom(
        0,
        "states of each teacher and student kept, at even shares of their steps; at each a student "
        "is trained on what the teacher writes, and influence is measured (figure 3)",
        ge=0,
    )
    stop_after: Literal["scores", "end"] = Field(
        default="end", description="scores: nothing is taught, trained or evaluated; one round"
    )

    def placed_judge(self) -> JudgeConfig:
        """The judge, which stands where the run does unless its own settings say where."""
        return self.judge.placed(self.device)
