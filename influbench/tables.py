"""Tables for the terminal: quality next to cost, a ranking, a ledger."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from rich import box
from rich.markup import escape
from rich.table import Table

from influbench.analysis import headline
from influbench.analysis.comparison import NOISE, Comparison
from influbench.records import LedgerRow
from influbench.results import BASELINE, CEILING, Study

MISSING = "–"
"""Not measured, or undefined."""
WIDE = 140
"""Characters that agreement and cost side by side take."""


@dataclass(frozen=True)
class _Column:
    metric: str
    title: str
    decimals: int | None
    """None: a cost, three significant digits and no interval."""
    factor: float = 1.0
    """From the metric's unit to the shown one."""


_COLUMNS = (
    _Column("prepare_seconds", "seconds\nto prepare", None),
    _Column("seconds_per_candidate", "seconds\n/ cand.", None),
    _Column("prepare_passes", "passes\nto prepare", None),
    _Column("passes_per_candidate", "passes\n/ cand.", None),
    _Column("pairs", "pairs", None),
    _Column("win_rate", "win rate\n(%)", 1),
    _Column("grade", "grade\n(1-10)", 2),
    _Column("heldout_loss", "held-out loss\n(nats/token)", 3),
    _Column("heldout_loss_change", "minus none's,\npaired", 4),
)
_AGREEMENT = (
    _Column("spearman", "spearman", 2),
    _Column("kendall", "kendall", 2),
    _Column("sign_agreement", "same sign", 2),
    _Column("sign_agreement_centred", "same sign\ncentred", 2),
    _Column("top_overlap", "best\nquarter", 2),
)
_SIBLINGS = (
    _Column("spearman_within", "spearman", 2),
    _Column("kendall_within", "kendall", 2),
    _Column("pair_precision", "best and\nworst pairs", 2),
    _Column("pair_precision_margin", "pairs 2 s.e.\napart", 2),
)
_COST = (
    *(
        column
        for column in _COLUMNS
        if column.metric.endswith(("seconds", "passes", "_per_candidate"))
    ),
    _Column("peak_bytes", "peak\nMiB", None, 2.0**-20),
    _Column("parameter_share", "share of\nparameters", None),
)
_FIRST_AND_LAST = {BASELINE: 0, CEILING: 2}


def cost_quality_tables(study: Study, width: int, agreement: str = "spearman") -> list[Table]:
    """One row an estimator: agreement with the oracle, cost, and the student that it made.

    One table where ``width`` allows it, else two: agreement and cost, then the students. A metric
    that the study holds for no estimator has no column; elsewhere ``–`` stands for what was not
    measured, such as the student of a method that was only scored.

    Args:
        study: any study.
        width: characters that a line may have.
        agreement: which agreement metric stands in the first column.
    """
    numbers = headline(study.estimates)
    cells: dict[tuple[str, str], dict[str, Any]] = {
        (row["label"], row["metric"]): row for row in numbers.to_dict("records")
    }
    measured = {metric for _, metric in cells}
    first = _Column(agreement, f"{agreement}\nwith exact", 2)
    columns = [column for column in (first, *_COLUMNS) if column.metric in measured]
    costs = [column for column in columns if column in (first, *_COST)]
    parts = [costs, [c for c in columns if c not in costs]]
    shown = [columns] if width >= WIDE or not all(parts) else parts
    labels = sorted({label for label, _ in cells}, key=_place)
    tables: list[Table] = []
    for part in shown:
        table = Table(title=study.name, box=box.SIMPLE_HEAD, show_edge=False, collapse_padding=True)
        table.add_column("estimator", overflow="fold")
        for column in part:
            table.add_column(column.title, justify="right", overflow="fold")
        for label in labels:
            if any((label, column.metric) in cells for column in part):
                row = [_text(cells.get((label, column.metric)), column) for column in part]
                table.add_row(escape(label), *row)
        tables.append(table)
    tables[-1].caption = _caption(study, numbers)
    return tables


def differences_table(found: pd.DataFrame) -> Table:
    """One row an estimator and metric of ``differences.differences``."""
    table = Table(
        title="differences between students",
        caption=escape("paired by prompt, prompts nested in seeds; [low, high]: 95 % interval"),
        box=box.SIMPLE_HEAD,
        show_edge=False,
    )
    for title in ("metric", "estimator", "minus"):
        table.add_column(title)
    for title in ("difference", "seeds", "prompts"):
        table.add_column(title, justify="right")
    for row in found.to_dict("records"):
        text = f"{row['value']:.4g} [{row['low']:.4g}, {row['high']:.4g}] {row['unit']}"
        cells = (
            row["metric"],
            row["estimator"],
            row["against"],
            text,
            row["seeds"],
            row["prompts"],
        )
        table.add_row(*(escape(str(cell)) for cell in cells))
    return table


def comparison_tables(found: Comparison, width: int = WIDE) -> list[Table]:
    """Agreement and cost; and agreement among siblings, where candidates have groups.

    Best first by Spearman; the oracle and its agreement with itself last.

    Args:
        found: the verdict.
        width: of the terminal, characters; below ``WIDE`` the costs get a table of their own.
    """
    cells = {(row["estimator"], row["metric"]): row for row in found.rows.to_dict("records")}
    last = [found.oracle, CEILING, NOISE]

    def place(name: str) -> tuple[int, float, str]:
        own = last.index(name) if name in last else -1
        return own, -cells.get((name, "spearman"), {"value": -2.0})["value"], name

    names = sorted({name for name, _ in cells}, key=place)
    title = f"agreement with {found.oracle}, {found.candidates} candidates"
    tables = [_comparison(title, names, (*_AGREEMENT, *(_COST if width >= WIDE else ())), cells)]
    if found.groups:
        title = f"among siblings, {found.groups} seed prompts with two candidates or more"
        tables.append(_comparison(title, names, _SIBLINGS, cells))
    if width < WIDE:
        tables.append(_comparison("cost", names, _COST, cells))
    lines = [
        "[low, high]: 95 % bootstrap interval over seed prompts; a backward counts as two passes"
    ]
    if CEILING in names:
        lines.append(f"{CEILING}: {found.oracle} against itself, half of the references each")
    if NOISE in names:
        lines.append(f"{NOISE}: {found.oracle} against itself with its numerical noise added")
    tables[0].caption = escape("\n".join([*lines, *found.notes]))
    return tables


def _comparison(
    title: str, names: Sequence[str], columns: Sequence[_Column], cells: Mapping[Any, Any]
) -> Table:
    table = Table(title=escape(title), box=box.SIMPLE_HEAD, show_edge=False, collapse_padding=True)
    table.add_column("method", overflow="fold")
    columns = [c for c in columns if any((name, c.metric) in cells for name in names)]
    for column in columns:
        table.add_column(column.title, justify="right", overflow="fold")
    for name in names:
        texts = [_text(cells.get((name, column.metric)), column) for column in columns]
        if any(text != MISSING for text in texts):
            table.add_row(escape(name), *texts)
    return table


def metrics_table(study: Study, metrics: Sequence[str]) -> Table:
    """The metrics named, one row a method, next to its cost; best first by the first metric."""
    numbers = headline(study.estimates)
    cells = {(row["label"], row["metric"]): row for row in numbers.to_dict("records")}
    labels = {label for label, _ in cells}
    names = sorted(labels, key=lambda n: (-cells.get((n, metrics[0]), {"value": -2.0})["value"], n))
    columns = [_Column(m, m.replace("_", "\n", 1).replace("_", " "), 2) for m in metrics]
    columns = [replace(c, decimals=5) if c.metric.startswith("gain_") else c for c in columns]
    cost = [c for c in _COST if c.metric in ("prepare_passes", "passes_per_candidate")]
    table = _comparison(study.name, names, [*columns, *cost], cells)
    table.caption = escape("[low, high]: 95 % interval; a backward counts as two passes")
    return table


def ranking_table(scores: pd.DataFrame, facts: Mapping[str, float], ends: int = 5) -> Table:
    """The best and the worst candidates of a ranking.

    Args:
        scores: columns ``id``, ``score``, perhaps ``stderr``; one row a candidate.
        facts: what the method says of itself, shown below.
        ends: how many candidates are shown at either end.
    """
    best = scores.sort_values("score", ascending=False, kind="stable")
    places = range(1, len(best) + 1)
    rows = list(zip(places, *(best[column] for column in best.columns), strict=True))
    caption = "; ".join(f"{name} {value:.4g}" for name, value in sorted(facts.items()))
    table = Table(title=f"{len(best)} candidates", caption=escape(caption), box=box.SIMPLE_HEAD)
    for column in ("rank", *best.columns):
        table.add_column(column, justify="left" if column == "id" else "right", overflow="fold")
    hidden = max(0, len(rows) - 2 * ends)
    for row in rows[: ends if hidden else None]:
        table.add_row(*map(_plain, row))
    if hidden:
        table.add_row("…", *("" for _ in best.columns))
        for row in rows[-ends:]:
            table.add_row(*map(_plain, row))
    return table


def ledger_table(ledger: Sequence[LedgerRow]) -> Table:
    """What each phase cost; a pass backward counts as two."""
    table = Table(title="cost", box=box.SIMPLE_HEAD)
    for title in ("stage", "phase"):
        table.add_column(title, overflow="fold")
    for title in ("items", "seconds", "passes", "tokens", "peak (MiB)", "US$"):
        table.add_column(title, justify="right", overflow="fold")
    for row in ledger:
        table.add_row(
            escape(f"{row.stage} {row.label}".strip()),
            escape(row.phase),
            str(row.items),
            _cost(row.seconds),
            _cost(row.forward_passes + 2 * row.backward_passes),
            f"{row.tokens:,}",
            f"{row.peak_bytes / 2**20:,.0f}",
            f"{row.money:.4f}" if row.money else MISSING,
        )
    return table


def _plain(value: object) -> str:
    if isinstance(value, float):
        return MISSING if math.isnan(value) else f"{value:.4g}"
    return escape(str(value))


def _cost(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _place(label: str) -> tuple[int, str]:
    return (_FIRST_AND_LAST.get(label, 1), label)


def _caption(study: Study, numbers: pd.DataFrame) -> str:
    seeds = sorted(set(numbers["seeds"]))
    spread = f"{seeds[0]}-{seeds[-1]}" if len(seeds) > 1 else str(seeds[0] if seeds else 0)
    lines = [f"[low, high]: 95 % interval; seeds: {spread}; a backward counts as two passes"]
    labels = set(numbers["label"])
    if BASELINE in labels:
        lines.append(f"{BASELINE}: the teacher is not taught")
    if CEILING in labels:
        lines.append(f"{CEILING}: exact against itself, half of the reference set each")
    return escape("\n".join([*lines, *study.notes]))


def _text(cell: dict[str, Any] | None, column: _Column) -> str:
    if cell is None:
        return MISSING
    value, low, high = (cell[name] * column.factor for name in ("value", "low", "high"))
    if column.decimals is None:
        return _cost(value)
    text = f"{value:.{column.decimals}f}"
    if math.isnan(low) or math.isnan(high):
        return text
    # A line of its own, or eight columns do not fit a terminal.
    return escape(f"{text}\n[{low:.{column.decimals}f}, {high:.{column.decimals}f}]")
