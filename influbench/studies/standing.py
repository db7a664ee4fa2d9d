"""How a study stands, read from its store alone: for another terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from influbench import terminal
from influbench.config import read_yaml
from influbench.data.records import LedgerRow
from influbench.errors import UserError
from influbench.store import receipts
from influbench.store.entry import read_manifest
from influbench.store.receipts import Receipt
from influbench.studies.board import clock, time_left


@dataclass(frozen=True, kw_only=True)
class Standing:
    """The runs of a study, and what they have cost."""

    study: str
    runs: Sequence[Receipt]
    workers: int
    seconds: float
    """Of all stages that its runs are made of, each once."""
    money: float

    def table(self) -> Table:
        """One row a run."""
        table = Table(title=f"study {terminal.line(self.study)}")
        for column in ("run", "state", "stages", "time", "where"):
            table.add_column(column, overflow="fold")
        for receipt in self.runs:
            state = receipt.now
            where = f"{receipt.host}:{receipt.pid}" if state == "running" else receipt.error
            took = clock(receipt.seconds) if receipt.seconds else ""
            stages = str(len(receipt.entries) or "")
            row = receipt.run, state, stages, took, where
            table.add_row(*map(terminal.cell, row))
        return table

    def summary(self) -> str:
        """One line: how many runs in which state, cost so far, time left."""
        states = [receipt.now for receipt in self.runs]
        order = ("done", "running", "failed", "stopped", "to do")
        counts = ", ".join(f"{states.count(s)} {s}" for s in order if s in states)
        took = [r.seconds for r in self.runs if r.now == "done" and r.made]
        rest = len(states) - states.count("done") - states.count("failed")
        left = f"; {time_left(took, rest, self.workers)}" if rest else ""
        paid = f" and ${self.money:.2f}" if self.money else ""
        return f"{len(states)} runs: {counts}; cost so far {clock(self.seconds)}{paid}{left}"


def standing(store: Path, study: str) -> Standing:
    """How the study of that name, or in that file, stands.

    Raises:
        UserError: no such study was swept over this store.
    """
    name = str(read_yaml(Path(study)).get("name")) if study.endswith((".yaml", ".yml")) else study
    grid = receipts.read_grid(store, name)
    if grid is None:
        known = receipts.studies(store)
        if name in known:
            raise UserError(
                f"what the store {store} knows of study '{name}' is damaged: sweep it again, which "
                "makes nothing anew that is there"
            )
        raise UserError(
            f"no study '{name}' was swept over the store {store}; there are: "
            f"{', '.join(known) or 'none yet'}"
        )
    found = [
        receipts.read(store, name, run) or Receipt(study=name, run=run, state="to do")
        for run in grid.runs
    ]
    rows = [
        row
        for entry in dict.fromkeys(entry for receipt in found for entry in receipt.entries)
        for row in _ledger(store / entry)
    ]
    return Standing(
        study=name,
        runs=found,
        workers=grid.workers,
        seconds=sum(row.seconds for row in rows),
        money=sum(row.money for row in rows),
    )


def _ledger(path: Path) -> Sequence[LedgerRow]:
    try:
        return read_manifest(path).ledger
    except (OSError, ValueError):
        return ()
