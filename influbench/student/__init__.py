"""The student: a language model, its optimizer state, and its per-example loss."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from influbench.student.history import History, Told
    from influbench.student.language_student import LanguageStudent
    from influbench.student.loading import load_student
    from influbench.student.settings import Compute, StudentSettings

_HOMES = {
    "Compute": "settings",
    "History": "history",
    "LanguageStudent": "language_student",
    "StudentSettings": "settings",
    "Told": "history",
    "load_student": "loading",
}
"""Where each name is; loaded when it is first used, so that settings need no torch."""

__all__ = [
    "Compute",
    "History",
    "LanguageStudent",
    "StudentSettings",
    "Told",
    "load_student",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
