"""The runs of a study as tidy data frames: what tables, figures and reports are made of.

``results/<study>/<run>.json`` holds one run: resolved config, provenance, result rows, ledger,
per-item outcomes and scores. Apart from ``provenance`` the same result gives the same bytes.
``results/<study>/study.json``, where a sweep wrote it, says which runs belong to the study.

A number that is undefined has no row; nothing in a file is NaN. The estimator ``base`` is the
student that was not trained, ``none`` the one that an untaught teacher's data trained, ``ceiling``
the oracle against itself. Metrics and units: ``results.metrics``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from operator import attrgetter
from pathlib import Path
from typing import Any

import pandas as pd

from influbench.data.records import LedgerRow, Outcome, ResultRow, Score
from influbench.errors import UserError
from influbench.results.axes import axes_of, leaves
from influbench.results.headline import framed, headline
from influbench.results.manifest import read_manifest
from influbench.results.metrics import range_of
from influbench.results.result_file import MANIFEST, RunResult, columns_of, read
from influbench.results.rows import row_of
from influbench.results.students import AXIS, named, students_of
from influbench.statistics.estimate import Estimate
from influbench.statistics.seeds import from_stderr


@dataclass(frozen=True, kw_only=True)
class Study:
    """The runs of one study as data frames; ``[axes]`` is one column an axis."""

    name: str
    path: Path
    runs: Mapping[str, RunResult]
    """By run id, sorted."""
    axes: tuple[str, ...]
    """Dotted names of the settings that vary beside estimator and seed; ``student`` where runs
    trained several on the same data."""
    strays: tuple[str, ...]
    """Runs in the folder that the study's grid no longer has; they are in no frame."""
    missing: tuple[str, ...]
    """Runs of the grid that have no file yet."""
    rows: pd.DataFrame
    """One row a number of a run: study, run, estimator, [axes], round, seed, metric, value, low,
    high, stderr, n, unit. Where no interval was stored it is made of the standard error
    (``statistics.seeds.from_stderr``); without one, NaN."""
    ledger: pd.DataFrame
    """run, [axes] and the columns of ``LedgerRow``."""
    outcomes: pd.DataFrame
    """run, estimator, [axes], seed, metric, item, value, category: each student, item by item."""
    scores: pd.DataFrame
    """run, estimator, [axes], seed, id, group, value, stderr: each candidate's."""
    notes: tuple[str, ...]
    """The notes of all runs, each once."""

    @cached_property
    def estimates(self) -> pd.DataFrame:
        """The numbers of ``rows`` with seeds put together: see ``results.headline``."""
        return headline(self.rows, self.axes)


def load_study(study: str | Path, root: str | Path = "results") -> Study:
    """The study in a folder, or of that name under ``root``, as tidy frames.

    Examples:
        Which estimator agrees best with the oracle, seeds put together?

        >>> study = influbench.load_study("agreement")
        >>> best = study.estimates.query("metric == 'spearman'").sort_values("value")
        >>> best[["label", "value", "low", "high", "seeds"]].tail(3)

        What does each seed say of the students, under each rule that makes pairs?

        >>> study = influbench.load_study("rules")  # grid: estimator, preferences.rule, seed
        >>> loss = study.rows.query("metric == 'heldout_loss'")
        >>> loss.pivot_table("value", ["estimator", "preferences.rule"], "seed")

        Which candidates do two estimators judge most differently?

        >>> wide = study.scores.pivot_table("value", "id", "estimator").rank()
        >>> (wide["exact"] - wide["trak"]).abs().nlargest(5)

    Args:
        study: a folder, or a name under ``root``.
        root: the folder of all results.

    Returns:
        The study; its frames' columns are named at :class:`Study`, units are a column of ``rows``.

    Raises:
        UserError: no such study, or a file in it is damaged or of another study.
    """
    if not str(study):
        raise UserError("expected the name or folder of a study, got an empty one")
    root = Path(root)
    path = root / study if (root / study).is_dir() else Path(study)
    files = _run_files(path)
    if not files:
        others = sorted({file.parent.name for file in root.glob("*/*.json")})
        named = ", ".join(others) or "none"
        raise UserError(
            f"expected result files (*.json) in {path}: there are none; studies in {root}: {named}"
        )
    manifest = read_manifest(path)
    own = [file for file in files if manifest is None or file.stem in manifest.runs]
    loaded = [read(file) for file in own or files]
    names = {name for name, _, _ in loaded}
    if len(names) > 1:
        raise UserError(
            f"expected one study in {path}, got {sorted(names)}: one folder each, please"
        )
    runs = {run: result for _, run, result in sorted(loaded, key=lambda one: one[1])}
    axes = axes_of({run: result.config for run, result in runs.items()})
    if manifest is None:
        return _study(names.pop(), path, runs, axes)
    axes = list(dict.fromkeys([*manifest.axes, *axes]))
    strays = tuple(file.stem for file in files if file not in own)
    missing = tuple(run for run in manifest.runs if run not in runs)
    return _study(names.pop(), path, runs, axes, strays, missing)


def _run_files(path: Path) -> list[Path]:
    # Beside results there may be scores, with what is known about them in F.meta.json.
    found = sorted(path.glob("*.json"))
    return [file for file in found if file.name != MANIFEST and not file.match("*.meta.json")]


def _study(
    name: str,
    path: Path,
    runs: Mapping[str, RunResult],
    axes: Sequence[str],
    strays: tuple[str, ...] = (),
    missing: tuple[str, ...] = (),
) -> Study:
    settings = {run: leaves(result.config) for run, result in runs.items()}
    if any(result.others for result in runs.values()):
        axes = [*axes, AXIS]

    @cache  # a run has hundreds of settings, and a study ten thousands of records
    def place(run: str, student: str = "") -> tuple[Any, ...]:
        found = {**settings[run], AXIS: named(runs[run], student)}
        return tuple(found.get(axis) for axis in axes)

    seeds = {run: found.get("seed", 0) for run, found in settings.items()}
    given = columns_of(ResultRow, drop=("student",))
    split = given.index("estimator") + 1
    spent, answered = columns_of(LedgerRow), columns_of(Outcome)
    of_row, of_ledger, of_outcome = (attrgetter(*each) for each in (given, spent, answered))
    return Study(
        name=name,
        path=path,
        runs=runs,
        axes=tuple(axes),
        strays=strays,
        missing=missing,
        rows=framed(
            [*given[:split], *axes, *given[split:]],
            (
                (*values[:split], *place(run, row.student), *values[split:])
                for run, result in runs.items()
                for row in result.rows
                for values in [of_row(_bounded(row))]
            ),
        ),
        ledger=framed(
            ["run", *axes, *spent],
            (
                (run, *place(run), *of_ledger(row))
                for run, result in runs.items()
                for row in result.ledger
            ),
        ),
        outcomes=framed(
            ["run", "estimator", *axes, "seed", *answered],
            (
                (run, estimator, *place(run, student), seeds[run], *of_outcome(outcome))
                for run, result in runs.items()
                for student, estimator, outcomes in students_of(result)
                for outcome in outcomes
            ),
        ),
        scores=framed(
            ["run", "estimator", *axes, "seed", "id", "group", "value", "stderr"],
            (
                (run, estimator, *place(run), seeds[run], *_scored(s, result.groups))
                for run, result in runs.items()
                for estimator, scores in result.scores.items()
                for s in scores
            ),
        ),
        notes=tuple(dict.fromkeys(note for result in runs.values() for note in result.notes)),
    )


def _bounded(row: ResultRow) -> ResultRow:
    number = Estimate(
        value=row.value, low=row.low, high=row.high, stderr=row.stderr, n=row.n, unit=row.unit
    )
    return row_of(row, row.metric, from_stderr(number, range_of(row.metric, row.unit)))


def _scored(score: Score, groups: Mapping[str, str]) -> tuple[Any, ...]:
    return score.id, groups.get(score.id, ""), score.value, score.stderr
