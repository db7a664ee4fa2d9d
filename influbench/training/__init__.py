"""The trainings: the student's warm-up and final SFT, the teacher's DPO."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from influbench.training.fine_tuning import sft
    from influbench.training.settings import (
        DPOStageConfig,
        SFTConfig,
        SFTSettings,
        WarmupConfig,
        WarmupSettings,
    )
    from influbench.training.stages import DPO, SFT, SHORT_TRAININGS, WARM_UP
    from influbench.training.subsets import Heard, Subset
    from influbench.training.warming import warm_up

_HOMES = {
    "DPO": "stages",
    "SFT": "stages",
    "SHORT_TRAININGS": "stages",
    "WARM_UP": "stages",
    "DPOStageConfig": "settings",
    "Heard": "subsets",
    "SFTConfig": "settings",
    "SFTSettings": "settings",
    "Subset": "subsets",
    "WarmupConfig": "settings",
    "WarmupSettings": "settings",
    "sft": "fine_tuning",
    "warm_up": "warming",
}
"""Where each name is; loaded when it is first used, so that settings need no torch."""

__all__ = [
    "DPO",
    "SFT",
    "SHORT_TRAININGS",
    "WARM_UP",
    "DPOStageConfig",
    "Heard",
    "SFTConfig",
    "SFTSettings",
    "Subset",
    "WarmupConfig",
    "WarmupSettings",
    "sft",
    "warm_up",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
