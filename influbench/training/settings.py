"""How the student is warmed up and trained, and the teacher taught: what a configuration says."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from influbench.config import Config, Seed, seldom, transport
from influbench.models.precision import OnThisMachine, Products
from influbench.models.settings import Learn
from influbench.student.history import Told
from influbench.student.settings import Compute
from influbench.training.schedule import Schedule


class WarmupSettings(Config):
    """AdamW without weight decay, learning rate rising linearly from 0 over the whole training.

    That is the paper's warm-up (``warmup_ratio`` 1): its last learning rate is the peak.
    """

    learning_rate: float = Field(default=5e-6, gt=0)
    epochs: int = Field(default=1, ge=1)
    batch_size: int = Field(default=32, ge=1, description="examples in one optimizer step")
    clip_norm: float | None = Field(default=1.0, gt=0, description="None = no clipping")
    max_length: int = Field(default=1024, ge=2, description="longer examples lose their end")
    learn: Learn = Field(default="all", description="assistant turns that are learnt")
    compute: Annotated[Compute, OnThisMachine] = Field(
        default="float32", description="matrix products; weights and moments stay in float32"
    )
    token_budget: int | None = transport(None, "padded tokens in one forward pass")
    checkpoint_seconds: float = transport(60.0, "a kill loses at most about this much", ge=0)


class TrainingSettings(Config):
    """What the trainings of student and teacher share: AdamW and a WSD schedule."""

    learning_rate: float = Field(default=5e-6, gt=0)
    schedule: Schedule = Schedule()
    epochs: int = Field(default=1, ge=1)
    batch_size: int = Field(default=32, ge=1, description="examples in one optimizer step")
    clip_norm: float = Field(default=1.0, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    max_length: int = Field(default=1024, ge=2, description="tokens of prompt and answer together")
    overlong: Literal["cut", "refuse"] = Field(
        default="cut", description="longer ones lose their end and are counted, or stop the run"
    )
    compute: Products = Field(
        default="float32", description="matrix products; weights and moments stay in float32"
    )
    gradient_checkpointing: bool = transport(
        False, "layers are computed again going back: less memory, a third more time"
    )
    checkpoint_seconds: float = transport(60.0, "a kill loses at most about this much", ge=0)


class SFTSettings(TrainingSettings):
    """The final student's training; the loss is the mean over all response tokens of a batch."""

    learn: Learn = Field(default="all", description="assistant turns that are learnt")
    micro_batch: int | None = transport(
        None, "most rows in one forward pass; None = as many as fit, on a CPU 2,048 tokens", ge=1
    )
    method: Literal["full", "lora"] = seldom(
        "full", "lora: an adapter in every linear layer learns, and is merged into the student"
    )
    lora_rank: int = seldom(8, "of method = lora", ge=1)
    lora_alpha: int = seldom(16, "of method = lora", ge=1)
    response_tokens: int | None = Field(
        default=None,
        ge=1,
        description="learn rows in the order written until the next would bring more response "
        "tokens: arms of a study then learn equally much",
    )


class DPOSettings(TrainingSettings):
    """How the teacher is trained; the defaults are the paper's."""

    learning_rate: float = Field(default=1e-6, gt=0)
    schedule: Schedule = Schedule()
    batch_size: int = Field(default=2, ge=1, description="pairs in one optimizer step")
    micro_batch: int = Field(default=2, ge=1, description="most pairs in one forward pass")
    beta: float = Field(default=0.1, gt=0)
    method: Literal["full", "lora"] = "full"
    lora_rank: int = Field(default=8, ge=1)
    lora_alpha: int = Field(default=16, ge=1)
    target: Literal["instruction", "response"] = seldom(
        "instruction",
        "what the teacher is taught to write: instructions (the paper), or responses (its "
        "ablation; needs generation.responses_per_instruction of 2 or more)",
    )
    no_chat_template: bool = Field(
        default=False,
        description="train on the bare user turn, without the chat template that the teacher is "
        "sampled with; the released code's quirk",
    )
    held_out: float = Field(
        default=0.01,
        ge=0,
        lt=1,
        description="share of seed prompts whose pairs are only evaluated on",
    )


class WarmupConfig(WarmupSettings):
    """The stage's: with what a run says once."""

    seed: Seed = 0
    device: str = transport("auto")
    told: Told = seldom(Told(), "which weights are trained")


class TrainingConfig(TrainingSettings):
    """A training stage's: with what a run says once."""

    seed: Seed = 0
    device: str = transport("auto")
    keep_checkpoints: int = seldom(0, "states kept on the way, at even shares of the steps", ge=0)


class SFTConfig(SFTSettings, TrainingConfig):
    """The stage's: with what a run says once."""


class DPOStageConfig(DPOSettings, TrainingConfig):
    """The stage's: with what a run says once."""
