"""Read and write ``results/``: the only door for figures, tables and reports.

``results/<study>/<run>.json`` holds one run: resolved config, provenance, result rows, ledger,
per-item outcomes and scores. Apart from ``provenance`` the same result gives the same bytes.

Metrics (unit): agreement with the oracle ``spearman``, ``kendall``, ``spearman_within``,
``kendall_within``, ``sign_agreement``, ``sign_agreement_centred``, ``pair_precision``,
``pair_precision_margin``, ``top_overlap`` (see ``statistics.against_oracle``); quality ``win_rate``
and ``win_rate_lc`` (%), ``grade`` (1-10), ``reference_loss``, ``heldout_loss`` and
``heldout_loss_change`` (nats/token; against the student ``none``, paired by item); cost
``prepare_seconds`` (s), ``seconds_per_candidate`` (s), ``prepare_passes`` and
``passes_per_candidate`` (forward passes; a backward counts two), ``peak_bytes`` (bytes),
``parameter_share`` (of the trainable parameters, those that a gradient method attributes); planted
data ``auc``, ``paired`` and ``auc_<kind>`` (``planted``);
training on thirds ``gain_<part>``, ``gain_correlation``, ``lds`` (``prediction``); ``pairs``.

An interval is stored as two more rows, ``<metric>:low`` and ``<metric>:high``, with the bounds as
their values: a bootstrap interval is not symmetric, so a standard error cannot stand for it.
A number that is undefined has no row; nothing in a file is NaN. The estimator ``none`` is the
student without a taught teacher, ``ceiling`` the oracle against itself.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from influbench.errors import UserError
from influbench.records import LedgerRow, Outcome, ResultRow
from influbench.results.result_file import RunResult, columns_of, read, write

__all__ = [
    "BASELINE",
    "CEILING",
    "RunResult",
    "Study",
    "cost_rows",
    "load_study",
    "with_interval",
    "write",
]

BASELINE = "none"
"""Estimator name of the student trained without a taught teacher."""
CEILING = "ceiling"
"""Estimator name of the oracle's agreement with itself."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """The runs of one study as data frames."""

    name: str
    path: Path
    runs: Mapping[str, RunResult]
    """By run id, sorted."""
    rows: pd.DataFrame
    """The columns of ``ResultRow``, as stored: long format, intervals in rows of their own."""
    estimates: pd.DataFrame
    """The columns of ``ResultRow`` and ``low``, ``high``: one row a number, its bounds beside it.
    Where none were stored they are value ± 1.96 stderr; without a standard error, NaN."""
    ledger: pd.DataFrame
    """``run`` and the columns of ``LedgerRow``."""
    outcomes: pd.DataFrame
    """``run``, ``estimator`` and the columns of ``Outcome``."""
    scores: pd.DataFrame
    """``run``, ``estimator``, ``id``, ``group``, ``value``, ``stderr``."""
    notes: tuple[str, ...]
    """The notes of all runs, each once."""


def with_interval(row: ResultRow, low: float | None, high: float | None) -> list[ResultRow]:
    """A row and the two rows of its interval; a bound that is not known has no row."""
    bounds = {"low": low, "high": high}
    return [row] + [
        dataclasses.replace(row, metric=f"{row.metric}:{end}", value=float(bound), stderr=None)
        for end, bound in bounds.items()
        if bound is not None and not math.isnan(bound)
    ]


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


def load_study(study: str | Path, root: str | Path = "results") -> Study:
    """The study in a folder, or of that name under ``root``.

    Raises:
        UserError: no such study, or a file in it is not a result.
    """
    root = Path(root)
    path = root / study if (root / study).is_dir() else Path(study)
    files = sorted(path.glob("*.json"))
    if not files:
        others = sorted({file.parent.name for file in root.glob("*/*.json")})
        raise UserError(
            f"expected result files (*.json) in {path}: there are none; studies in {root}: {others}"
        )
    loaded = [read(file) for file in files]
    names = {name for name, _, _ in loaded}
    if len(names) > 1:
        raise UserError(
            f"expected one study in {path}, got {sorted(names)}: one folder each, please"
        )
    return _study(names.pop(), path, {run: result for _, run, result in loaded})


def _passes(row: LedgerRow) -> float:
    return row.forward_passes + 2 * row.backward_passes


def _study(name: str, path: Path, found: Mapping[str, RunResult]) -> Study:
    runs = dict(sorted(found.items()))
    rows = [row for result in runs.values() for row in result.rows]
    return Study(
        name=name,
        path=path,
        runs=runs,
        rows=_frame(columns_of(ResultRow), map(_values, rows)),
        estimates=_estimates(rows),
        ledger=_frame(
            ["run", *columns_of(LedgerRow)],
            ((run, *_values(row)) for run, result in runs.items() for row in result.ledger),
        ),
        outcomes=_frame(
            ["run", "estimator", *columns_of(Outcome)],
            (
                (run, estimator, *_values(outcome))
                for run, result in runs.items()
                for estimator, outcomes in result.outcomes.items()
                for outcome in outcomes
            ),
        ),
        scores=_frame(
            ["run", "estimator", "id", "group", "value", "stderr"],
            (
                (run, estimator, s.id, result.groups.get(s.id, ""), s.value, s.stderr)
                for run, result in runs.items()
                for estimator, scores in result.scores.items()
                for s in scores
            ),
        ),
        notes=tuple(dict.fromkeys(note for result in runs.values() for note in result.notes)),
    )


def _values(record: Any) -> list[Any]:
    return [getattr(record, column) for column in columns_of(type(record))]


def _frame(columns: list[str], rows: Iterable[Sequence[Any]]) -> pd.DataFrame:
    frame = pd.DataFrame([list(row) for row in rows], columns=columns)
    for column in ("stderr", "low", "high"):
        if column in frame:
            frame[column] = frame[column].astype(float)
    return frame


def _estimates(rows: Sequence[ResultRow]) -> pd.DataFrame:
    bounds = {_key(row, row.metric): row.value for row in rows}
    table = []
    for row in rows:
        if row.metric.endswith((":low", ":high")):
            continue
        half = math.nan if row.stderr is None else 1.96 * row.stderr
        low = bounds.get(_key(row, f"{row.metric}:low"), row.value - half)
        high = bounds.get(_key(row, f"{row.metric}:high"), row.value + half)
        table.append([*_values(row), low, high])
    return _frame([*columns_of(ResultRow), "low", "high"], table)


def _key(row: ResultRow, metric: str) -> tuple[Any, ...]:
    return (row.study, row.run, row.estimator, row.round, row.seed, metric)
