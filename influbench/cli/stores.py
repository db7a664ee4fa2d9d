"""The commands about a store: what is kept, is it whole, what can go."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from influbench import terminal
from influbench.cli import options
from influbench.cli.options import STORE
from influbench.errors import UserError

if TYPE_CHECKING:
    from influbench.store.upkeep import Kept

app = typer.Typer(no_args_is_help=True, help="What is kept, is it whole, what can go.")


@app.command("ls")
def show(store: options.StoreRoot = STORE) -> None:
    """Every entry: size, what it cost to make, what needs it."""
    from influbench.store import upkeep

    _check(store)
    found = upkeep.listing(store.resolve())
    console = terminal.console()
    table = Table(title=f"store {terminal.line(str(store))}")
    for column in ("entry", "MB", "seconds", "state", "needed by"):
        table.add_column(column, overflow="fold")
    for entry in sorted(found, key=lambda entry: -entry.bytes):
        state = "half done"
        if entry.whole:
            state = "weights let go" if entry.lean else "whole"
        row = entry.path.name, _mb(entry.bytes), f"{entry.seconds:.1f}", state, _by(entry)
        table.add_row(*map(terminal.cell, row))
    console.print(table)
    console.print(_total(found, "in all"), markup=False, highlight=False)


@app.command()
def verify(store: options.StoreRoot = STORE) -> None:
    """Read every file of every entry; one line for each that was changed or lost.

    Weights that were let go are no damage, and are named.
    """
    from influbench.store import upkeep
    from influbench.store.entry import read_manifest

    _check(store)
    console = terminal.console()
    entries = damaged = 0
    for path, problems in upkeep.verify(store.resolve()):
        entries += 1
        damaged += bool(problems)
        for problem in problems:
            console.print(problem, markup=False, highlight=False, soft_wrap=True)
        if problems:
            console.print(f"{path.name}: will be made again when it is needed", markup=False)
        elif gone := read_manifest(path).let_go:
            line = f"{path.name}: weights let go ({', '.join(gone)})"
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"{entries} entries read, {damaged} damaged", markup=False, highlight=False)
    if damaged:
        raise typer.Exit(1)


@app.command()
def gc(
    store: options.StoreRoot = STORE,
    yes: Annotated[bool, typer.Option("--yes", help="delete; else it is only said")] = False,
    weights: Annotated[
        bool, typer.Option("--weights", help="models of finished runs, all else of them stays")
    ] = False,
) -> None:
    """Delete what no result and no unfinished run of a study is made of, while none is at work.

    ``--weights``: weights and moments of models that finished runs alone need. The entries count
    as made; a model is made again when something needs it that is not there.

    What ``score`` and ``evaluate`` made, and sweeps of influbench 0.2, is not known to be needed:
    give those sweeps again first, which takes seconds.
    """
    from influbench.store import upkeep

    _check(store)
    console = terminal.console()
    found = upkeep.listing(store.resolve())
    if weights:
        goes = [replace(entry, bytes=entry.weights) for entry in found if entry.weights]
        stay = [replace(entry, bytes=entry.bytes - entry.weights) for entry in found]
    else:
        goes = [entry for entry in found if not entry.users]
        stay = [entry for entry in found if entry.users]
    if yes:
        (upkeep.let_go if weights else upkeep.remove)(store.resolve())
    for entry in goes:
        cost = f"{entry.seconds:.1f} s to make again" if entry.whole else "half done"
        line = f"{entry.path.name}: {_mb(entry.bytes)} MB, {cost}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    said = "deleted" if yes else "would go; --yes deletes them"
    console.print(_total(goes, said), markup=False, highlight=False)
    console.print(_total(stay, "stay"), markup=False, highlight=False)


def _check(store: Path) -> None:
    if not store.is_dir():
        raise UserError(f"expected the folder of a store at {store}: there is none (--store)")


def _by(entry: Kept) -> str:
    more = f" and {len(entry.users) - 1} more" if len(entry.users) > 1 else ""
    return entry.users[0] + more if entry.users else "nothing"


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f}"


def _total(entries: Iterable[Kept], said: str) -> str:
    listed = list(entries)
    seconds = sum(entry.seconds for entry in listed)
    size = _mb(sum(entry.bytes for entry in listed))
    return f"{len(listed)} entries, {size} MB, {seconds:.0f} s of work: {said}"
