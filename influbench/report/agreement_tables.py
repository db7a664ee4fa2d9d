"""Tables of agreement with the oracle: of score files, of a study, of other metrics by method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from influbench.report.comparison import NOISE, Comparison
from influbench.report.tables import COST, MISSING, WIDE, Column, caption_of, text_of
from influbench.results import CEILING, Study
from influbench.results.headline import headline
from influbench.terminal import cell

AGREEMENT = (
    Column("spearman", "spearman", 2),
    Column("kendall", "kendall", 2),
    Column("sign_agreement", "same sign", 2),
    Column("sign_agreement_centred", "same sign\ncentred", 2),
    Column("top_overlap", "best\nquarter", 2),
)
SIBLINGS = (
    Column("spearman_within", "spearman", 2),
    Column("kendall_within", "kendall", 2),
    Column("pair_precision", "best and\nworst pairs", 2),
    Column("pair_precision_margin", "pairs 2 s.e.\napart", 2),
)


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
    tables = [_table(title, names, (*AGREEMENT, *(COST if width >= WIDE else ())), cells)]
    if found.groups:
        title = f"among siblings, {found.groups} seed prompts with two candidates or more"
        tables.append(_table(title, names, SIBLINGS, cells))
    if width < WIDE:
        tables.append(_table("cost", names, COST, cells))
    lines = [
        "[low, high]: 95 % bootstrap interval over seed prompts; a backward counts as two passes"
    ]
    if CEILING in names:
        lines.append(f"{CEILING}: {found.oracle} against itself, half of the references each")
    if NOISE in names:
        lines.append(f"{NOISE}: {found.oracle} against itself with its numerical noise added")
    tables[0].caption = escape("\n".join([*lines, *found.notes]))
    return tables


def study_tables(study: Study) -> list[Table]:
    """Agreement over all candidates, agreement among siblings, and cost; best first by Spearman.

    Args:
        study: one whose runs stop after the scores.
    """
    numbers = headline(study.estimates)
    cells = {(row["label"], row["metric"]): row for row in numbers.to_dict("records")}
    names = sorted(
        {label for label, _ in cells},
        key=lambda name: (-cells.get((name, "spearman"), {"value": -2.0})["value"], name),
    )
    parts = {
        f"{study.name}: agreement with exact": AGREEMENT,
        "among siblings of one seed prompt": SIBLINGS,
        "cost": COST,
    }
    tables = [_table(title, names, columns, cells) for title, columns in parts.items()]
    tables[-1].caption = caption_of(study, numbers)
    return tables


def _table(
    title: str, names: Sequence[str], columns: Sequence[Column], cells: Mapping[Any, Any]
) -> Table:
    table = Table(title=escape(title), box=box.SIMPLE_HEAD, show_edge=False, collapse_padding=True)
    table.add_column("method", overflow="fold")
    columns = [c for c in columns if any((name, c.metric) in cells for name in names)]
    for column in columns:
        table.add_column(column.title, justify="right", overflow="fold")
    for name in names:
        texts = [text_of(cells.get((name, column.metric)), column) for column in columns]
        if any(text != MISSING for text in texts):
            table.add_row(cell(name), *texts)
    return table


def metrics_table(study: Study, metrics: Sequence[str]) -> Table:
    """The metrics named, one row a method, next to its cost; best first by the first metric."""
    numbers = headline(study.estimates)
    cells = {(row["label"], row["metric"]): row for row in numbers.to_dict("records")}
    labels = {label for label, _ in cells}
    names = sorted(labels, key=lambda n: (-cells.get((n, metrics[0]), {"value": -2.0})["value"], n))
    columns = [Column(m, m.replace("_", "\n", 1).replace("_", " "), 2) for m in metrics]
    columns = [replace(c, decimals=5) if c.metric.startswith("gain_") else c for c in columns]
    cost = [c for c in COST if c.metric in ("prepare_passes", "passes_per_candidate")]
    table = _table(study.name, names, [*columns, *cost], cells)
    table.caption = escape("[low, high]: 95 % interval; a backward counts as two passes")
    return table
