"""The kit of a method author: small students and a check that an estimator keeps its promises."""

from __future__ import annotations

from influbench.testing.check import ContractError, Report, check_estimator
from influbench.testing.small_students import (
    LeastSquares,
    ToyStudent,
    loss_of_each,
    tiny_context,
    tiny_examples,
    tiny_student,
    toy_example,
    warmed,
)

__all__ = [
    "ContractError",
    "LeastSquares",
    "Report",
    "ToyStudent",
    "check_estimator",
    "loss_of_each",
    "tiny_context",
    "tiny_examples",
    "tiny_student",
    "toy_example",
    "warmed",
]
