"""The student's two trainings: the warm-up that gives it optimizer state, and the final SFT."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from influbench.training.fine_tuning import SFT, SFTConfig, sft
    from influbench.training.settings import SFTSettings, WarmupSettings
    from influbench.training.warming import WARM_UP, WarmupConfig, warm_up

_HOMES = {
    "SFT": "fine_tuning",
    "WARM_UP": "warming",
    "SFTConfig": "fine_tuning",
    "SFTSettings": "settings",
    "WarmupConfig": "warming",
    "WarmupSettings": "settings",
    "sft": "fine_tuning",
    "warm_up": "warming",
}
"""Where each name is; loaded when it is first used, so that settings need no torch."""

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


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
