"""A student whose batches are put together by chance, which the noise floor is measured with."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from influbench.data.records import Example
from influbench.estimator import Student
from influbench.files import digest
from influbench.student import LanguageStudent
from influbench.student.batch import TokenBatch
from influbench.student.placement.sharded import ShardedStudent

PARTS = 3
"""Random parts that are batched apart: enough to break up every batch of similar lengths."""


@dataclass(frozen=True)
class Regrouped(LanguageStudent):
    """A student whose batches are put together by chance; all else is the student's own."""

    grouping: str = ""
    """What chance is seeded with."""

    def batches(
        self, examples: Sequence[Example], *, learning: bool = False, at_most: int | None = None
    ) -> list[TokenBatch]:
        """The student's batches of random parts of the examples, rows in random order."""
        rng = np.random.default_rng(int(digest(self.grouping), 16))
        found: list[TokenBatch] = []
        for part in np.array_split(rng.permutation(len(examples)), PARTS):
            if not len(part):
                continue
            for batch in super().batches(
                [examples[i] for i in part], learning=learning, at_most=at_most
            ):
                mixed = batch.take(rng.permutation(len(batch.rows)).tolist())
                positions = tuple(int(part[i]) for i in mixed.positions)
                found.append(dataclasses.replace(mixed, positions=positions))
        return found


def regrouped(student: Student, grouping: str) -> Regrouped | ShardedStudent:
    """A language student, whole or in shards, with its batches put together by chance."""
    if isinstance(student, ShardedStudent):
        inner = regrouped(student.student, grouping)
        assert isinstance(inner, Regrouped)
        return ShardedStudent(inner)
    assert isinstance(student, LanguageStudent)
    own = {field.name: getattr(student, field.name) for field in dataclasses.fields(student)}
    return Regrouped(**own, grouping=grouping)
