"""What stands on the page: a section a study (one for all score files), and the candidates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from influbench.data.records import LedgerRow
from influbench.report import agreement_tables as agreement
from influbench.report import cells, comparison, tables
from influbench.report.comparison import CompareConfig
from influbench.report.notes import lines_of
from influbench.report.page import answer, charts
from influbench.report.page.candidates import CandidateSet, set_of_files, sets_of
from influbench.report.page.texts import Texts
from influbench.results import Study, load_study, score_files
from influbench.results.differences import differences
from influbench.results.score_files import ScoreFile

SIBLINGS = tuple(replace(c, title=f"siblings: {c.title}") for c in agreement.SIBLINGS)
SHOWN = (*agreement.ORDER, *agreement.SIGN, *SIBLINGS, *tables.COLUMNS[4:], *cells.COST)
"""Columns of the leaderboard, where a study has them."""
OTHERS = 8
"""Columns of a study that has no quality among ``SHOWN``."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number of a table."""

    text: str
    interval: str = ""
    value: float | None = None
    """What the column is sorted by."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A table: titles, and rows of cells of which the first names the row."""

    titles: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True, kw_only=True)
class Section:
    """All of one study, or of the score files, but its candidates."""

    name: str
    answer: Sequence[answer.Sentence]
    leaderboard: Grid
    numbers: Grid
    differences: Grid | None
    ledger: Grid
    provenance: Grid
    notes: Sequence[str]
    cost_quality: Sequence[Mapping[str, Any]]
    agreement: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Page:
    """Everything that the page shows."""

    sections: Sequence[Section]
    sets: Sequence[CandidateSet]

    @property
    def title(self) -> str:
        """The names of what the page is about."""
        return ", ".join(section.name for section in self.sections)


def page_of(
    sources: Sequence[str],
    root: Path = Path("results"),
    texts: Texts | None = None,
    against: CompareConfig | None = None,
) -> Page:
    """The page about studies and files of scores.

    Args:
        sources: studies by name or folder, and files that ``influbench score --out`` wrote.
        root: the folder of all results.
        texts: where the candidates' texts may be found.
        against: how score files are compared: which of them is the oracle, if it is there.

    Raises:
        UserError: no such study or file, or a damaged one.
    """
    texts = texts or Texts()
    files = [Path(source) for source in sources if Path(source).is_file()]
    studies = [load_study(source, root) for source in sources if not Path(source).is_file()]
    sections: list[Section] = []
    sets: list[CandidateSet] = []
    for study in studies:
        own = sets_of(study, texts)
        sections.append(_of_study(study, own))
        sets += own
    if files:
        scored = [score_files.read(file) for file in files]
        own = set_of_files(scored, texts)
        sections.append(_of_files(files, scored, own, against or CompareConfig()))
        sets += own
    return Page(sections=sections, sets=sets)


def _of_study(study: Study, sets: Sequence[CandidateSet]) -> Section:
    gaps = differences(study)
    ledger = [row for run in study.runs.values() for row in run.ledger]
    return Section(
        name=study.name,
        answer=answer.of_study(study),
        leaderboard=_leaderboard(cells.Cells.of(study)),
        numbers=_numbers(study.estimates),
        differences=None if gaps.empty else _differences(gaps),
        ledger=_ledger(list(dict.fromkeys(ledger))),  # runs share stages: each was paid once
        provenance=_provenance(study),
        notes=lines_of(study),
        cost_quality=charts.cost_quality(study.estimates),
        agreement=[table for own in sets if (table := charts.agreement(own))],
    )


def _of_files(
    paths: Sequence[Path],
    files: Sequence[ScoreFile],
    sets: Sequence[CandidateSet],
    against: CompareConfig,
) -> Section:
    compared = len(files) > 1 and any(file.name == against.oracle for file in files)
    verdict = comparison.verdict(paths, against) if compared else None
    notes = (
        list(verdict.notes) if verdict else [f"no file '{against.oracle}': nothing to agree with"]
    )
    rows = verdict.rows if verdict else pd.DataFrame(columns=list(comparison.COLUMNS))
    return Section(
        name=", ".join(file.name for file in files),
        answer=answer.of_methods(rows) or [answer.Sentence(_scored(files))],
        leaderboard=_leaderboard(cells.Cells.made_of(rows)),
        numbers=_numbers(rows),
        differences=None,
        ledger=_ledger([row for file in files for row in file.ledger]),
        provenance=_about(files),
        notes=notes,
        cost_quality=charts.cost_quality(rows),
        agreement=[table for own in sets if (table := charts.agreement(own))],
    )


def _scored(files: Sequence[ScoreFile]) -> str:
    said = [
        f"{file.name}: {len(file.scores):,} candidates, {sum(s.value > 0 for s in file.scores):,} "
        "with a score above 0"
        for file in files
    ]
    return "; ".join(said) + "."


def _leaderboard(numbers: cells.Cells) -> Grid:
    columns = [column for column in SHOWN if column.metric in numbers.metrics]
    if all(column in cells.COST for column in columns):
        known = {column.metric for column in SHOWN}
        others = sorted(numbers.metrics - known)[:OTHERS]
        columns = [*(cells.Column(m, m.replace("_", " "), 2) for m in others), *columns]
    first = columns[0].metric if columns else ""
    order = cells.best_first(numbers, first) if first else []
    rows = [
        [
            Cell(text=" ".join(part for part in numbers.heads[label] if part)),
            *(_cell(numbers.numbers.get((label, column.metric)), column) for column in columns),
        ]
        for label in order
    ]
    shown = [row for row in rows if any(cell.value is not None for cell in row[1:])]
    titles = [column.title.replace("-\n", "-").replace("\n", " ") for column in columns]
    return Grid(titles=["estimator", *titles], rows=shown)


def _cell(number: Mapping[str, Any] | None, column: cells.Column) -> Cell:
    if number is None:
        return Cell(text=cells.MISSING)
    value, low, high = (number[name] * column.factor for name in ("value", "low", "high"))
    if column.decimals is None:
        return Cell(text=cells.costly(value), value=value)
    bounds = f"[{low:.{column.decimals}f}, {high:.{column.decimals}f}]"
    return Cell(
        text=f"{value:.{column.decimals}f}",
        interval="" if math.isnan(low) or math.isnan(high) else bounds,
        value=value,
    )


def _numbers(numbers: pd.DataFrame) -> Grid:
    rows = numbers.to_dict("records")
    return Grid(
        titles=["estimator", "metric", "value", "low", "high", "n", "seeds", "unit"],
        rows=[
            [
                Cell(text=str(row.get("label", row["estimator"]))),
                Cell(text=str(row["metric"])),
                *(_number(row[name]) for name in ("value", "low", "high")),
                _number(row["n"]),
                _number(row.get("seeds", 1)),
                Cell(text=str(row["unit"])),
            ]
            for row in rows
        ],
    )


def _differences(found: pd.DataFrame) -> Grid:
    names = ["label", "metric", "against", "value", "low", "high", "seeds", "prompts", "unit"]
    words = {"label", "metric", "against", "unit"}
    return Grid(
        titles=["arm", "metric", "minus", *names[3:]],
        rows=[
            [Cell(text=str(row[n])) if n in words else _number(row[n]) for n in names]
            for row in found.to_dict("records")
        ],
    )


def _ledger(ledger: Sequence[LedgerRow]) -> Grid:
    return Grid(
        titles=[
            "stage", "of", "phase", "items", "seconds", "passes", "tokens", "peak MiB", "requests",
            "US$",
        ],
        rows=[
            [
                Cell(text=row.stage),
                Cell(text=row.label),
                Cell(text=row.phase),
                _number(row.items),
                _number(row.seconds),
                _number(row.forward_passes + 2 * row.backward_passes),
                _number(row.tokens),
                _number(row.peak_bytes / 2**20),
                _number(row.api_calls),
                _number(row.money),
            ]
            for row in ledger
        ],
    )  # fmt: skip


def _provenance(study: Study) -> Grid:
    rows = []
    for run, result in study.runs.items():
        told = result.provenance
        commit = str(told.get("commit") or "not in git")[:12]
        versions = ", ".join(f"{k} {v}" for k, v in dict(told.get("versions", {})).items())
        words = (
            run,
            " ".join(map(str, told.get("command", ()))) or "not kept",
            commit + (" with changes" if told.get("dirty") else ""),
            f"{told.get('device', '?')}, {told.get('threads', '?')} threads",
            told.get("date", "?"),
            f"python {told.get('python', '?')}, {told.get('platform', '?')}; {versions}",
        )
        rows.append([Cell(text=str(word)) for word in words])
    return Grid(titles=["run", "command", "commit", "device", "date", "versions"], rows=rows)


def _about(files: Sequence[ScoreFile]) -> Grid:
    rows = []
    for file in files:
        about = file.about
        given = [about.get(name, {}) for name in ("student", "candidates", "reference", "warmup")]
        words = (
            file.name,
            about.get("estimator", "not kept"),
            " ".join(f"{k}={v}" for k, v in dict(about.get("options", {})).items()),
            given[0].get("name", "?"),
            *(f"{one.get('count', '?')} ({str(one.get('digest', '?'))[:8]})" for one in given[1:]),
        )
        rows.append([Cell(text=str(word)) for word in words])
    titles = ["file", "estimator", "options", "student", "candidates", "references", "warm-up"]
    return Grid(titles=titles, rows=rows)


def _number(value: Any) -> Cell:
    number = float(value)
    if math.isnan(number):
        return Cell(text=cells.MISSING)
    return Cell(text=cells.costly(number), value=number)
