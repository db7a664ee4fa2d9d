"""The table of estimators, made without importing torch."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from influbench import registry
from influbench.registry import Listing
from influbench.terminal import cell


def estimator_table(methods: Mapping[str, Listing]) -> Table:
    """One row a registered method.

    Raises:
        UserError: a method's module cannot be imported.
    """
    table = Table(
        title="estimators",
        caption="cost in forward passes, to prepare; per candidate (a backward counts two): "
        "M references, W warm-up examples",
    )
    for column in ("name", "scale", "needs", "cost", "source", "package"):
        table.add_column(column, overflow="fold", no_wrap=column in ("name", "scale", "cost"))
    for name, listing in methods.items():
        facts = vars(registry.load(name))
        row = (
            name,
            facts["scale"],
            ", ".join(facts.get("needs", ())) or "text",
            facts.get("cost", "?"),
            facts.get("source", "?"),
            listing.package,
        )
        table.add_row(*map(cell, row))
    return table
