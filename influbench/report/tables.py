"""Tables for the terminal: quality next to cost, a ranking, a ledger."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from influbench.records import LedgerRow
from influbench.results import BASELINE, CEILING, Study
from influbench.results.headline import headline
from influbench.terminal import cell

MISSING = "–"
"""Not measured, or undefined."""
WIDE = 140
"""Characters that agreement and cost side by side take."""


@dataclass(frozen=True)
class Column:
    """One metric in a table."""

    metric: str
    title: str
    decimals: int | None
    """None: a cost, three significant digits and no interval."""
    factor: float = 1.0
    """From the metric's unit to the shown one."""


COLUMNS = (
    Column("prepare_seconds", "seconds\nto prepare", None),
    Column("seconds_per_candidate", "seconds\n/ cand.", None),
    Column("prepare_passes", "passes\nto prepare", None),
    Column("passes_per_candidate", "passes\n/ cand.", None),
    Column("pairs", "pairs", None),
    Column("win_rate", "win rate\n(%)", 1),
    Column("grade", "grade\n(1-10)", 2),
    Column("heldout_loss", "held-out loss\n(nats/token)", 3),
    Column("heldout_loss_change", "minus none's,\npaired", 4),
)
COST = (
    *(
        column
        for column in COLUMNS
        if column.metric.endswith(("seconds", "passes", "_per_candidate"))
    ),
    Column("peak_bytes", "peak\nMiB", None, 2.0**-20),
    Column("parameter_share", "share of\nparameters", None),
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
    first = Column(agreement, f"{agreement}\nwith exact", 2)
    columns = [column for column in (first, *COLUMNS) if column.metric in measured]
    costs = [column for column in columns if column in (first, *COST)]
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
                row = [text_of(cells.get((label, column.metric)), column) for column in part]
                table.add_row(cell(label), *row)
        tables.append(table)
    tables[-1].caption = caption_of(study, numbers)
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
        table.add_row(*map(cell, cells))
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
            cell(f"{row.stage} {row.label}".strip()),
            cell(row.phase),
            str(row.items),
            _cost(row.seconds),
            _cost(row.forward_passes + 2 * row.backward_passes),
            f"{row.tokens:,}",
            f"{row.peak_bytes / 2**20:,.0f}",
            f"{row.money:.4f}" if row.money else MISSING,
        )
    return table


def _plain(value: object) -> str | Text:
    if isinstance(value, float):
        return MISSING if math.isnan(value) else f"{value:.4g}"
    return cell(value)


def _cost(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _place(label: str) -> tuple[int, str]:
    return (_FIRST_AND_LAST.get(label, 1), label)


def caption_of(study: Study, numbers: pd.DataFrame) -> str:
    """What a reader of a study's numbers must know, a line each."""
    seeds = sorted(set(numbers["seeds"]))
    spread = f"{seeds[0]}-{seeds[-1]}" if len(seeds) > 1 else str(seeds[0] if seeds else 0)
    lines = [f"[low, high]: 95 % interval; seeds: {spread}; a backward counts as two passes"]
    labels = set(numbers["label"])
    if BASELINE in labels:
        lines.append(f"{BASELINE}: the teacher is not taught")
    if CEILING in labels:
        lines.append(f"{CEILING}: exact against itself, half of the reference set each")
    return escape("\n".join([*lines, *study.notes]))


def text_of(cell: dict[str, Any] | None, column: Column) -> str:
    """One cell: the value, and its interval on a line of its own."""
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
