"""The teacher writes candidates: where every set of instruction-response pairs comes from."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from influbench.generation.stage import STAGE, write_candidates

_HOMES = {
    "STAGE": "stage",
    "write_candidates": "stage",
}
"""Where each name is; loaded when it is first used, so that settings need no torch."""

__all__ = [
    "STAGE",
    "write_candidates",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
