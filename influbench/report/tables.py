"""Tables for the terminal: quality next to cost, a ranking, a ledger."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd
from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from influbench.data.records import Example, LedgerRow
from influbench.report.cells import (
    COST,
    MISSING,
    WIDE,
    Cells,
    Column,
    Shown,
    costly,
    ordered,
    width_of,
)
from influbench.report.notes import caption_of
from influbench.results import Study
from influbench.statistics.seeds import ENOUGH
from influbench.terminal import cell, line, plain

SHORTEST = 16
"""Characters of a text that say something."""
BETWEEN = 3
"""Characters between two columns."""
COLUMNS = (
    *COST[:4],
    Column("pairs", "pairs", None),
    Column("win_rate", "win rate\n(%)", 1),
    Column("grade", "grade\n(1-10)", 2),
    Column("heldout_loss", "held-out loss\n(nats/token)", 3),
    Column("heldout_loss_change", "minus none's,\npaired", 4),
)


def cost_quality_tables(study: Study, width: int, agreement: str = "spearman") -> list[Shown]:
    """One row an arm: agreement with the oracle, cost, and the student that it made; then notes.

    One table where ``width`` allows it, else several: costs first, then the students. A metric
    that the study holds for no estimator has no column; elsewhere ``–`` stands for what was not
    measured, such as the student of a method that was only scored. Axes of the study that change
    some arm are columns; seeds are put together.

    Args:
        study: any study.
        width: characters that a line may have.
        agreement: which agreement metric stands in the first column.
    """
    cells = Cells.of(study)
    first = Column(agreement, f"{agreement}\nwith exact", 2)
    columns = [c for c in (first, *COLUMNS) if c.metric in cells.metrics]
    costs = [column for column in columns if column in (first, *COST)]
    parts = [costs, [c for c in columns if c not in costs]]
    names = ordered(cells)
    whole = cells.tables(study.name, columns, names, width)
    if len(whole) > 1:
        whole = [table for part in parts for table in cells.tables(study.name, part, names, width)]
    return [*whole, caption_of(study)]


def differences_table(found: pd.DataFrame) -> Table:
    """One row a metric and arm of ``differences.differences``; dimmed where seeds are too few."""
    control = " or ".join(sorted(set(found["against"])))
    table = Table(
        title=escape(f"differences between students: arm minus {control}"),
        caption=escape("same prompts, seed by seed; [low, high]: 95 % interval"),
        box=box.SIMPLE_HEAD,
        show_edge=False,
        collapse_padding=True,
    )
    table.add_column("metric", no_wrap=True)
    table.add_column("arm", overflow="fold")
    table.add_column("difference", justify="right", no_wrap=True)
    for title in ("seeds", "prompts"):
        table.add_column(title, justify="right")
    for row in found.to_dict("records"):
        text = f"{row['value']:.4g} [{row['low']:.4g}, {row['high']:.4g}]"
        few = row["seeds"] < ENOUGH
        if few:
            text += f"\n{'one seed' if row['seeds'] == 1 else 'two seeds'}: not an answer"
        named = f"{row['metric']}\n({row['unit']})"
        cells = (named, row["label"], text, row["seeds"], row["prompts"])
        table.add_row(*(Text(plain(str(text))) for text in cells), style="dim" if few else None)
    return table


def with_text(scores: pd.DataFrame, candidates: Sequence[Example]) -> pd.DataFrame:
    """The scores with a column ``text``: the beginning of what each candidate says.

    Args:
        scores: one row a candidate.
        candidates: in the same order.
    """
    texts = [f"{_beginning(e.instruction, 40)} → {_beginning(e.response, 80)}" for e in candidates]
    return scores.assign(text=texts)


def _cut(text: str, width: int) -> str:
    shown = Text(text)
    shown.truncate(width, overflow="ellipsis")
    return shown.plain


def _beginning(text: str, length: int) -> str:
    return line(text[:length]) + ("…" if len(text) > length else "")


def ranking_table(
    scores: pd.DataFrame, facts: Mapping[str, float], ends: int = 5, width: int = WIDE
) -> Table:
    """The best and the worst candidates of a ranking.

    Args:
        scores: columns ``id``, ``score``, perhaps ``stderr`` and ``text``; one row a candidate.
        facts: what the method says of itself, shown below.
        ends: how many candidates are shown at either end.
        width: characters that a line may have; the text is cut to what the numbers leave.
    """
    if "text" in scores:
        left = width - width_of(ranking_table(scores.drop(columns="text"), facts, ends)) - BETWEEN
        cut = [_cut(text, max(SHORTEST, left)) for text in scores["text"]]
        scores = scores.assign(text=cut)
    best = scores.sort_values("score", ascending=False, kind="stable")
    places = range(1, len(best) + 1)
    rows = list(zip(places, *(best[column] for column in best.columns), strict=True))
    caption = "; ".join(f"{name} {value:.4g}" for name, value in sorted(facts.items()))
    table = Table(title=f"{len(best)} candidates", caption=escape(caption), box=box.SIMPLE_HEAD)
    for column in ("rank", *best.columns):
        words = column in ("id", "text")
        table.add_column(column, justify="left" if words else "right", overflow="fold")
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
    table = Table(title="cost", box=box.SIMPLE_HEAD, show_edge=False, collapse_padding=True)
    for title in ("stage", "phase"):
        table.add_column(title, overflow="fold")
    for title in ("items", "seconds", "passes", "tokens", "peak (MiB)", "US$"):
        table.add_column(title, justify="right", overflow="fold")
    for row in ledger:
        table.add_row(
            cell(f"{row.stage} {row.label}".strip()),
            cell(row.phase),
            str(row.items),
            costly(row.seconds),
            costly(row.forward_passes + 2 * row.backward_passes),
            f"{row.tokens:,}",
            f"{row.peak_bytes / 2**20:,.0f}",
            f"{row.money:.4f}" if row.money else MISSING,
        )
    return table


def _plain(value: object) -> str | Text:
    if isinstance(value, float):
        return MISSING if math.isnan(value) else f"{value:.4g}"
    return cell(value)
