"""The student: a language model, its optimizer state, and its per-example loss."""

from __future__ import annotations

from influbench.student.history import History, Told
from influbench.student.language_student import Compute, LanguageStudent
from influbench.student.loading import StudentSettings, load_student

__all__ = [
    "Compute",
    "History",
    "LanguageStudent",
    "StudentSettings",
    "Told",
    "load_student",
]
