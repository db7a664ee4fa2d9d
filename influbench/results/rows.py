"""Result rows made of estimates and of ledgers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

from influbench.data.records import LedgerRow, ResultRow
from influbench.statistics.estimate import Estimate

BASE = "base"
"""Arm of the student that was not trained at all: the paper's "no fine-tuning"."""
BASELINE = "none"
"""Arm of the student that an untaught teacher's data trained."""
CEILING = "ceiling"
"""Estimator name of the oracle's agreement with itself."""


def blank_row(study: str, run: str, estimator: str, seed: int, turn: int = 1) -> ResultRow:
    """A row to be filled in; ``turn`` is the round."""
    return ResultRow(
        study=study,
        run=run,
        estimator=estimator,
        round=turn,
        seed=seed,
        metric="",
        value=0.0,
        stderr=None,
        n=0,
        unit="",
    )


def row_of(base: ResultRow, metric: str, found: Estimate) -> ResultRow:
    """An estimate as a result row.

    Args:
        base: study, run, estimator, round and seed of the row; the rest is replaced.
        metric: what was measured.
        found: the number; an undefined one (NaN) is left out when the file is written.
    """
    return dataclasses.replace(
        base,
        metric=metric,
        value=float(found.value),
        low=_known(found.low),
        high=_known(found.high),
        stderr=_known(found.stderr),
        n=found.n,
        unit=found.unit,
    )


def cost_rows(
    ledger: Iterable[LedgerRow], base: ResultRow, prepare: str = "prepare", score: str = "score"
) -> list[ResultRow]:
    """What one estimator cost, as result rows.

    Args:
        ledger: the ledger rows of its scoring, phases ``prepare`` and ``score``.
        base: study, run, estimator, round and seed of the rows; the rest is replaced.
        prepare: name of the phase paid once.
        score: name of the phase paid per candidate; its ``items`` are the candidates.
    """
    ledger = list(ledger)
    once = [row for row in ledger if row.phase == prepare]
    each = [row for row in ledger if row.phase == score]
    candidates = sum(row.items for row in each)
    numbers = {
        "prepare_seconds": (sum(row.seconds for row in once), "s"),
        "prepare_passes": (sum(map(_passes, once)), "forward passes"),
        "peak_bytes": (max((row.peak_bytes for row in once + each), default=0), "bytes"),
    }
    if candidates:
        numbers |= {
            "seconds_per_candidate": (sum(row.seconds for row in each) / candidates, "s"),
            "passes_per_candidate": (sum(map(_passes, each)) / candidates, "forward passes"),
        }
    return [
        dataclasses.replace(
            base, metric=name, value=float(value), stderr=None, n=candidates, unit=unit
        )
        for name, (value, unit) in numbers.items()
    ]


def _passes(row: LedgerRow) -> float:
    return row.forward_passes + 2 * row.backward_passes


def _known(number: float | None) -> float | None:
    return None if number is None or math.isnan(number) else float(number)
