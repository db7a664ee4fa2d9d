"""Several students of one run: an axis of the study that its settings do not have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from influbench.data.records import Outcome
from influbench.results.result_file import RunResult

AXIS = "student"
PROBED = " (probed)"
"""After the name of the student that the candidates were scored for."""


def named(result: RunResult, student: str) -> str:
    """A student's place on the axis.

    Args:
        result: its run.
        student: its name; empty is the probed one.
    """
    return student or f"{result.config.get('student', {}).get('name', '')}{PROBED}"


def students_of(result: RunResult) -> Iterator[tuple[str, str, Sequence[Outcome]]]:
    """Student, arm and outcomes, the probed student (empty) first."""
    for student, arms in {"": result.outcomes, **result.others}.items():
        for arm, outcomes in arms.items():
            yield student, arm, outcomes
