"""Tables of agreement with the oracle: of score files, of a study, of other metrics by method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from influbench.report.cells import COST, WIDE, Cells, Column, Shown, best_first
from influbench.report.comparison import NOISE, Comparison
from influbench.report.notes import caption_of
from influbench.results import CEILING, Study
from influbench.terminal import plain

ORDER = (
    Column("spearman", "spearman", 2),
    Column("kendall", "kendall", 2),
    Column("top_overlap", "best\nquarter", 2),
)
SIGN = (
    Column("sign_agreement", "same sign", 2),
    Column("sign_agreement_centred", "same sign\ncentred", 2),
)
SIBLINGS = (
    Column("spearman_within", "spearman", 2),
    Column("kendall_within", "kendall", 2),
    Column("pair_precision", "best and\nworst pairs", 2),
    Column("pair_precision_margin", "pairs 2 s.e.\napart", 2),
)


def comparison_tables(found: Comparison, width: int = WIDE) -> list[Shown]:
    """Agreement and cost; and agreement among siblings, where candidates have groups; notes.

    Best first by Spearman; the oracle and its agreement with itself last.

    Args:
        found: the verdict.
        width: of the terminal, characters; below ``WIDE`` costs get a table of their own.
    """
    cells = Cells.made_of(found.rows)
    last = [name for name in (found.oracle, CEILING, NOISE) if name in cells.heads]
    names = [name for name in best_first(cells, "spearman") if name not in last] + last
    title = f"agreement with {found.oracle}, {found.candidates} candidates"
    siblings = f"among siblings, {found.groups} seed prompts with two candidates or more"
    lines = [
        "[low, high]: 95 % bootstrap interval over seed prompts; a backward counts as two passes"
    ]
    if CEILING in names:
        lines.append(f"{CEILING}: {found.oracle} against itself, half of the references each")
    if NOISE in names:
        lines.append(
            f"{NOISE}: {found.oracle} against itself with its own numerical noise added; 1.00 says "
            "that noise changes nothing, it is no score to reach"
        )
    tables = _tables(cells, names, title, siblings if found.groups else "", width)
    return [*tables, Text(plain("\n".join([*lines, *found.notes])), style="italic")]


def study_tables(study: Study, width: int = WIDE) -> list[Shown]:
    """Agreement over all candidates, among siblings, and cost; best first by Spearman; notes.

    Args:
        study: one whose runs stop after the scores.
        width: of the terminal, characters.
    """
    cells = Cells.of(study)
    title, siblings = f"{study.name}: agreement with exact", "among siblings of one seed prompt"
    tables = _tables(cells, best_first(cells, "spearman"), title, siblings, width)
    return [*tables, caption_of(study)]


def _tables(
    cells: Cells, names: Sequence[str], title: str, siblings: str, width: int
) -> list[Shown]:
    wide = width >= WIDE
    parts = {title: (*ORDER, *SIGN, *(COST if wide else ())), siblings: SIBLINGS}
    parts |= {} if wide else {"cost": COST}
    return [
        table
        for name, part in parts.items()
        if name
        for table in cells.tables(name, part, names, width, "method")
    ]


def metrics_table(study: Study, metrics: Sequence[str]) -> Table:
    """The metrics named, one row a method, next to its cost; best first by the first metric."""
    cells = Cells.of(study)
    columns = [Column(m, m.replace("_", "\n", 1).replace("_", " "), 2) for m in metrics]
    columns = [replace(c, decimals=5) if c.metric.startswith("gain_") else c for c in columns]
    cost = [c for c in COST if c.metric in ("prepare_passes", "passes_per_candidate")]
    table = cells.table(study.name, [*columns, *cost], best_first(cells, metrics[0]), "method")
    table.caption = escape("[low, high]: 95 % interval; a backward counts as two passes")
    return table
