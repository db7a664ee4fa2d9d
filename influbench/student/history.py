"""What is known of the training that a student comes from: all that its next step hangs on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from influbench.config import Config

Adapter = Literal["auto", "keep", "merge"]


class Told(Config):
    """How the student steps, where its folder does not say or where it is to be otherwise."""

    learning_rate: float | None = Field(
        default=None, gt=0, description="of the step; None = the checkpoint's, its peak where over"
    )
    clip_norm: float | None = Field(
        default=None, ge=0, description="of the step; 0 = no clipping, None = the training's"
    )
    trained: str | None = Field(
        default=None, description="pattern of the names of trained weights; None = by the moments"
    )
    adapter: Adapter = Field(
        default="auto",
        description="keep: an adapter's weights are the trainable ones; merge: all of the merged "
        "model's; auto: kept where its folder holds moments or a warm-up gives some",
    )


@dataclass(frozen=True)
class History:
    """The training, and where each fact was found."""

    optimizer: str = ""
    """``AdamW`` or ``SGD``; empty where there is none that can be used."""
    learning_rate: float = 0.0
    """Of the next step, largest of the groups."""
    rate_from: str = ""
    clip_norm: float | None = None
    """None = no clipping."""
    clip_from: str = ""
    steps: int = 0
    """Optimizer steps so far."""
    weight_decay: float = 0.0
    """Largest of the groups."""
    trained: str = ""
    """Which weights."""
    why_not: str = ""
    """Why there is no optimizer that can be used, as the end of a sentence."""

    def facts(self) -> dict[str, Any]:
        """As plain JSON types, for files."""
        return {
            "optimizer": self.optimizer,
            "steps": self.steps,
            "learning_rate": {"value": self.learning_rate, "from": self.rate_from},
            "clip_norm": {"value": self.clip_norm, "from": self.clip_from},
            "weight_decay": self.weight_decay,
            "trained": self.trained,
        }

    def lines(self) -> list[str]:
        """For people, under a table of scores."""
        clip = "no clipping" if self.clip_norm is None else f"clipped at norm {self.clip_norm:g}"
        return [
            f"the step: {self.optimizer} after {self.steps} steps, learning rate "
            f"{self.learning_rate:g} ({self.rate_from}), {clip} ({self.clip_from}), weight decay "
            f"{self.weight_decay:g}",
            f"the weights: {self.trained}",
        ]
