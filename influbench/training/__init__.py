"""The student's two trainings: the warm-up that gives it optimizer state, and the final SFT."""

from __future__ import annotations

from influbench.training.fine_tuning import SFT, SFTConfig, SFTSettings, sft
from influbench.training.warming import WARM_UP, WarmupConfig, WarmupSettings, warm_up

__all__ = [
    "SFT",
    "WARM_UP",
    "SFTConfig",
    "SFTSettings",
    "WarmupConfig",
    "WarmupSettings",
    "sft",
    "warm_up",
]
