"""How a method is run: settings that the loop, ``influbench score`` and studies share."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from influbench.config import Config, Seed, seldom, transport
from influbench.estimator import Objective
from influbench.executors import ExecutorConfig
from influbench.judging import JudgeConfig
from influbench.models.settings import Learn
from influbench.student.history import Told
from influbench.student.settings import Placement

ORACLE = "exact"
"""The estimator that the others are judged by; its noise floor is measured."""


class SpendingLimit(Config):
    """What every method may spend, so that methods are compared at one price."""

    passes_per_candidate: float | None = Field(
        default=None, gt=0, description="of the student, what it takes to prepare shared out"
    )
    seconds: float | None = Field(
        default=None, gt=0, description="for all candidates, at the pace of plain forward passes"
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if self.passes_per_candidate and self.seconds:
            raise ValueError("expected passes_per_candidate or seconds, not both")
        return self

    @property
    def given(self) -> bool:
        """Whether there is any."""
        return bool(self.passes_per_candidate or self.seconds)


class ScoringSettings(Config):
    """How any method is run: the knobs that loop, ``influbench score`` and studies share."""

    compute: Literal["float32", "bfloat16", "tf32"] = "float32"
    attention: Literal["sdpa", "eager"] = "sdpa"
    max_length: int | None = Field(
        default=None, ge=2, description="cut examples at so many tokens; None = refuse longer ones"
    )
    learn: Learn = Field(
        default="all", description="assistant turns that a conversation's loss is the mean over"
    )
    objective: Objective = seldom(
        "nll",
        "what the references are for: nll, that they are said; dpo (field 'rejected'), "
        "reward or weighted (a field 'reward' or 'weight'); followed by methods that say so",
    )
    dpo_beta: float = seldom(0.1, "of objective = dpo", gt=0)
    budget: SpendingLimit = seldom(
        SpendingLimit(), "what every method may spend; those that cannot use it say so"
    )
    token_budget: int | None = transport(None, "padded tokens in one pass; None = by memory", gt=0)
    placement: Placement = transport(
        "auto",
        "device; offloaded: moments and fp32 weights in host memory; auto = what fits; sharded: "
        "over the processes that torchrun started",
    )
    compile: Literal["auto", "on", "off"] = seldom(
        "auto",
        "layers compiled for passes without gradients, on CUDA; auto = where many passes pay for "
        "it; changes last bits, as another device does",
    )
    chunk_size: int | None = transport(
        None, "candidates between two safe points; None = as many as suit the method", gt=0
    )
    workers: int = transport(
        1,
        "processes that share the candidates of a method without a judge; GPUs are dealt",
        gt=0,
        le=4096,
    )
    executor: ExecutorConfig = transport(
        ExecutorConfig(kind="pool"), "where those processes are: pool, slurm or ray"
    )


class MethodConfig(ScoringSettings):
    """One estimator on one student: all that its scores depend on beside the data."""

    estimator: str
    options: dict[str, Any] = Field(default_factory=dict)
    seed: Seed = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    judge: JudgeConfig | None = None
    source: str = seldom("", "digest of the method's own files, where it is not ours")
    told: Told = seldom(Told(), "how the student steps, where that is not as its folder says")
    device: str = transport("auto")
    archive: Path | None = transport(None, "where bought judgements are kept")
