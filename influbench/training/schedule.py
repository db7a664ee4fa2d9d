"""The learning rate over a training: warm-up, stable, decay."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from influbench.config import Config


class Schedule(Config):
    """Linear warm-up, constant middle, cosine decay (WSD); shares of all optimizer steps.

    The defaults are the paper's for student and teacher (table of hyper-parameters: 5e-6 to 5e-9).
    """

    warmup: float = Field(default=0.1, ge=0, le=1)
    stable: float = Field(default=0.5, ge=0, le=1)
    decay: float = Field(default=0.4, ge=0, le=1)
    min_ratio: float = Field(
        default=1e-3, ge=0, le=1, description="learning rate at both ends, as a share of the peak"
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        total = self.warmup + self.stable + self.decay
        if abs(total - 1) > 1e-9:
            raise ValueError(f"expected warmup + stable + decay = 1, got {total:g}")
        return self

    def steps(self, total: int) -> tuple[int, int, int]:
        """Optimizer steps of warm-up, stable part and decay; they add up to ``total``.

        Rounded to the nearest, so that a training of a few steps does not spend one of them at a
        learning rate of almost nothing.
        """
        warmup = round(self.warmup * total)
        decay = min(round(self.decay * total), total - warmup)
        return warmup, total - warmup - decay, decay

    def arguments(self, total: int) -> dict[str, Any]:
        """The fields of ``transformers.TrainingArguments`` that give this schedule."""
        warmup, stable, decay = self.steps(total)
        # Stated by the total alone: transformers warns when it gets the stable steps as well.
        assert warmup + stable + decay == total
        return {
            "lr_scheduler_type": "warmup_stable_decay",
            "warmup_steps": warmup,
            "lr_scheduler_kwargs": {"num_decay_steps": decay, "min_lr_ratio": self.min_ratio},
        }
