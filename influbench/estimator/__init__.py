"""The estimator contract, the grants of what a method needs, and the registered methods."""

from __future__ import annotations

from influbench.estimator.checking import as_scores
from influbench.estimator.contract import (
    HELD,
    OF_STUDENT,
    Array,
    Batch,
    Context,
    Estimator,
    Examples,
    Facts,
    InParts,
    Need,
    Objective,
    Scale,
    Scorer,
    Scores,
    Student,
)

__all__ = [
    "HELD",
    "OF_STUDENT",
    "Array",
    "Batch",
    "Context",
    "Estimator",
    "Examples",
    "Facts",
    "InParts",
    "Need",
    "Objective",
    "Scale",
    "Scorer",
    "Scores",
    "Student",
    "as_scores",
]
