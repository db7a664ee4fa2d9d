"""The numbers of a study as cells of a table: one row an arm, one column an axis or a metric."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich import box
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from influbench.report.notes import hides_ceiling
from influbench.results import BASE, BASELINE, CEILING, Study
from influbench.terminal import cell, console

MISSING = "–"
"""Not measured, or undefined."""
LONGEST = 24
"""Characters of a name that are never broken."""
WIDE = 140
"""Characters that agreement and cost side by side take."""
Shown = Table | Text
_PAPER = console(width=1000)
_PLACES = {BASE: 0, BASELINE: 1, CEILING: 3}
"""The arms that the others are read against come first; the rest has place 2."""


@dataclass(frozen=True)
class Column:
    """One metric in a table."""

    metric: str
    title: str
    decimals: int | None
    """None: a cost, three significant digits and no interval."""
    factor: float = 1.0
    """From the metric's unit to the shown one."""


COST = (
    Column("prepare_seconds", "seconds\nto prepare", None),
    Column("seconds_per_candidate", "seconds\n/ cand.", None),
    Column("prepare_passes", "passes\nto prepare", None),
    Column("passes_per_candidate", "passes\n/ cand.", None),
    Column("peak_bytes", "peak\nMiB", None, 2.0**-20),
    Column("parameter_share", "share of\nparams", None),
    Column("budget_used", "budget\nused", None),
)


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Numbers by label and metric, and what a label's first columns say."""

    numbers: Mapping[tuple[str, str], Mapping[str, Any]]
    heads: Mapping[str, tuple[str, ...]]
    """By label: the estimator and its place on the axes shown."""
    axes: tuple[str, ...]
    """Last parts of their names."""

    @classmethod
    def of(cls, study: Study) -> Cells:
        """The headline numbers of a study; only axes that change some arm are shown."""
        return cls.made_of(study.estimates, study.axes, hides_ceiling(study))

    @classmethod
    def made_of(
        cls, numbers: pd.DataFrame, axes: Sequence[str] = (), hide_ceiling: bool = False
    ) -> Cells:
        """Of a frame with columns label (or estimator), metric, value, low, high, and the axes."""
        rows = numbers.to_dict("records")
        if hide_ceiling:
            rows = [row for row in rows if row["estimator"] != CEILING]
        shown = [axis for axis in axes if any(row[axis] is not None for row in rows)]
        heads: dict[str, tuple[str, ...]] = {}
        for row in rows:
            label = row.get("label", row["estimator"])
            place = [row[axis] for axis in shown]
            name = row["estimator"] if any(value is not None for value in place) else label
            heads[label] = (name, *("" if value is None else _short(value) for value in place))
        return cls(
            numbers={(row.get("label", row["estimator"]), row["metric"]): row for row in rows},
            heads=heads,
            axes=tuple(axis.rpartition(".")[2] for axis in shown),
        )

    @property
    def metrics(self) -> set[str]:
        """What was measured of some arm."""
        return {metric for _, metric in self.numbers}

    def value(self, label: str, metric: str, missing: float) -> float:
        """One number, or ``missing``."""
        found = self.numbers.get((label, metric))
        return missing if found is None else float(found["value"])

    def table(
        self, title: str, columns: Sequence[Column], labels: Sequence[str], first: str = "estimator"
    ) -> Table:
        """Rows that have one of the columns, columns that have one of the rows."""
        table = Table(
            title=escape(title), box=box.SIMPLE_HEAD, show_edge=False, collapse_padding=True
        )
        columns = [c for c in columns if any((label, c.metric) in self.numbers for label in labels)]
        for number, name in enumerate((first, *self.axes)):
            longest = max((len(self.heads[label][number]) for label in labels), default=0)
            table.add_column(escape(name), overflow="fold", no_wrap=longest <= LONGEST)
        for column in columns:
            table.add_column(column.title, justify="right", overflow="fold")
        for label in labels:
            texts = [text_of(self.numbers.get((label, c.metric)), c) for c in columns]
            if any(text != MISSING for text in texts):
                table.add_row(*map(cell, self.heads[label]), *texts)
        return table

    def tables(
        self,
        title: str,
        columns: Sequence[Column],
        labels: Sequence[str],
        width: int,
        first: str = "estimator",
    ) -> list[Table]:
        """As :meth:`table`, in as many as it takes for each to fit ``width`` unbroken."""
        found: list[Table] = []
        left = [c for c in columns if any((label, c.metric) in self.numbers for label in labels)]
        while left:
            count = len(left)
            while count > 1 and width_of(self.table(title, left[:count], labels, first)) > width:
                count -= 1
            found.append(self.table(title, left[:count], labels, first))
            left = left[count:]
        return found


def ordered(cells: Cells) -> list[str]:
    """Base first, then the untaught teacher's student, the arms by name, the ceiling last."""

    def place(label: str) -> tuple[int, tuple[str, ...]]:
        head = cells.heads[label]
        return _PLACES.get(head[0], 2), head

    return sorted(cells.heads, key=place)


def best_first(cells: Cells, metric: str) -> list[str]:
    """By one metric, the largest first; those without it last, by name."""
    return sorted(cells.heads, key=lambda label: (-cells.value(label, metric, -math.inf), label))


def text_of(number: Mapping[str, Any] | None, column: Column) -> str:
    """One cell: the value, and its interval on a line of its own."""
    if number is None:
        return MISSING
    value, low, high = (number[name] * column.factor for name in ("value", "low", "high"))
    if column.decimals is None:
        return costly(value)
    text = f"{value:.{column.decimals}f}"
    if math.isnan(low) or math.isnan(high):
        return text
    # A line of its own, or eight columns do not fit a terminal.
    return escape(f"{text}\n[{low:.{column.decimals}f}, {high:.{column.decimals}f}]")


def width_of(table: Table) -> int:
    """Characters that a table takes where nothing in it is broken."""
    return Measurement.get(_PAPER, _PAPER.options, table).maximum


def costly(value: float) -> str:
    """A cost in three significant digits."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
