"""The whole way to best-worst pairs: the racing oracle against the released algorithm, in one run.

What a user pays for is pairs. Ours is ``adaptive``, its preparation included; the released
algorithm measures every candidate on all references, at a cost that does not depend on the
candidate, so that a few are enough to know it. The pairs that both should give are those of
``exact``, which measures every candidate in full and agrees with brute force (``oracle``).

Seconds of the clock and of the processor are both given: on a machine that others use the clock
says less.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from benchmarks import released_oracle
from influbench.data.records import Example
from influbench.estimator import Array, Context, as_scores
from influbench.estimators.adaptive.adaptive import Adaptive
from influbench.estimators.exact import Exact
from influbench.student import LanguageStudent

T = TypeVar("T")

SIBLINGS = 4
"""Candidates of a group, as the paper has them."""
TARGET = 60.0
SAME = 0.99
MANY = 10_000
"""The paper's candidates."""


@dataclass(frozen=True)
class Spent:
    """What something took."""

    clock: float
    """Seconds."""
    processor: float
    """Seconds of all threads."""

    def __str__(self) -> str:
        return f"{self.clock:.2f} s ({self.processor:.2f} of the processor)"


def spent(function: Callable[[], T]) -> tuple[T, Spent]:
    """What a function returns, and what it took."""
    clock, processor = time.perf_counter(), time.process_time()
    result = function()
    return result, Spent(time.perf_counter() - clock, time.process_time() - processor)


def grouped(candidates: Sequence[Example]) -> list[Example]:
    """The candidates, every four in a row a group of siblings; what is left over is left out."""
    whole = len(candidates) // SIBLINGS * SIBLINGS
    return [replace(e, group=f"g{n // SIBLINGS}") for n, e in enumerate(candidates[:whole])]


def compare(
    student: LanguageStudent,
    references: Sequence[Example],
    candidates: Sequence[Example],
    warmup: Sequence[Example],
    folder: Path,
    slow: int,
) -> None:
    """Runs both and prints what they took, and whether their pairs are the same.

    Args:
        student: after its warm-up; left as it was.
        references: what helps.
        candidates: in groups of four.
        warmup: of which the racing oracle measures its probes.
        folder: for the released algorithm's checkpoint.
        slow: candidates that the released algorithm measures.
    """
    ctx = Context(student, references, warmup, folder, seed=0)
    count = len(candidates)
    scorer, prepare = spent(lambda: Adaptive().prepare(ctx))
    found, score = spent(lambda: as_scores(scorer(candidates), count))
    exact = as_scores(Exact().prepare(ctx)(candidates), count)
    same = np.array(_pairs(found.value)) == np.array(_pairs(exact.value))
    released_oracle.save_checkpoint(student, folder)

    def released() -> None:
        for example in candidates[:slow]:
            released_oracle.reload(student, folder)
            released_oracle.step(student, example)
            released_oracle.reference_loss(student, references)

    _, theirs = spent(released)
    released_oracle.reload(student, folder)
    print(f"candidates: {count}, {len(same)} groups of {SIBLINGS}")
    print(f"racing oracle: {prepare} to prepare, {score} to score")
    measured = found.diagnostics["reference_passes"]
    print(f"    measured {measured:.2f} of {len(references)} references a candidate")
    print(f"released algorithm: {theirs} for {slow} of the candidates")
    print(f"same best-worst pairs as exact: {int(same.all(axis=1).sum())} of {len(same)}")
    for number, name in ((count, "this run"), (MANY, "computed from its parts")):
        ratios = [
            getattr(theirs, kind)
            / slow
            / (getattr(prepare, kind) / number + getattr(score, kind) / count)
            for kind in ("clock", "processor")
        ]
        print(
            f"ratio released / ours, {number} candidates ({name}): {ratios[0]:.1f} by the clock, "
            f"{ratios[1]:.1f} by the processor (target {TARGET:.0f})"
        )
    held = "met" if same.all(axis=1).mean() >= SAME else "MISSED"
    print(f"target of {SAME:.0%} of the pairs: {held}")


def _pairs(values: Array) -> list[tuple[int, int]]:
    """Best and worst of each group."""
    table = values.reshape(-1, SIBLINGS)
    return list(zip(table.argmax(axis=1).tolist(), table.argmin(axis=1).tolist(), strict=True))
