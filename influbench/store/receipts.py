"""What the runs of a study left in the store: ``.runs/<study>/<run>.json``.

Written when a run starts, at every stage and when it ends, so that another terminal can say how a
sweep stands, two sweeps do not take the same run, and ``store gc`` knows what belongs to whom.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
from pydantic import PositiveInt

from influbench.errors import UserError
from influbench.files import from_dict, write_bytes
from influbench.store.disk import ExplainedWhenFull

FOLDER = ".runs"
CLOSED_TO_US = (errno.EROFS, errno.EACCES, errno.EPERM)
GRID = ".grid.json"
"""Beside the runs of a study: which there are."""
State = Literal["running", "done", "failed", "stopped", "to do"]


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """One run of a study, as far as it has come."""

    study: str
    run: str
    state: State
    host: str = ""
    pid: int = 0
    born: float = 0.0
    """When the process was started, by the system's clock; tells it from a later one."""
    sweep: str = ""
    """Which sweep it is of: the same begins a run anew that is put back or loses its worker."""
    seconds: float = 0.0
    """Wall time of the attempts of the sweep that made it; 0 where all was there before."""
    made: int = 0
    """Stages that these attempts ran."""
    error: str = ""
    result: str = ""
    """The result file."""
    entries: tuple[str, ...] = ()
    """Folders of the store that its numbers are made of, so far."""

    @property
    def here(self) -> bool:
        """Whether the process that wrote it is this one."""
        return self.host == platform.node() and self.pid == os.getpid()

    @property
    def alive(self) -> bool:
        """Whether that process still runs; one on another machine is taken at its word."""
        if self.host != platform.node():
            return True
        try:
            return abs(psutil.Process(self.pid).create_time() - self.born) < 1.0
        except (psutil.Error, ValueError, OverflowError):  # no such process, or no such number
            return False

    @property
    def now(self) -> State:
        """Its state, where a run that nobody works on any more is ``stopped``."""
        return "stopped" if self.state == "running" and not self.alive else self.state


def started(study: str, run: str, sweep: str = "") -> Receipt:
    """The receipt of a run that this process begins."""
    born = psutil.Process().create_time()
    return Receipt(
        study=study,
        run=run,
        state="running",
        host=platform.node(),
        pid=os.getpid(),
        born=born,
        sweep=sweep,
    )


def write(store: Path, receipt: Receipt) -> None:
    """Keeps a receipt. A store that cannot be written keeps none: all of its runs are cached."""
    path = _path(store, receipt.study, receipt.run)
    _keep(path, dataclasses.asdict(receipt))


def read(store: Path, study: str, run: str) -> Receipt | None:
    """The receipt of a run; None where there is none, or a damaged one."""
    try:
        return from_dict(Receipt, json.loads(_path(store, study, run).read_bytes()))
    except (OSError, ValueError, RecursionError):
        return None


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Which runs a study has."""

    runs: tuple[str, ...]
    workers: PositiveInt
    """How many of them a sweep runs at a time."""


def write_grid(store: Path, study: str, grid: Grid) -> None:
    """Keeps which runs a study has."""
    _keep(store / FOLDER / study / GRID, dataclasses.asdict(grid))


def read_grid(store: Path, study: str) -> Grid | None:
    """The runs of a study that was swept over this store; None for another, or a damaged file."""
    try:
        return from_dict(Grid, json.loads((store / FOLDER / study / GRID).read_bytes()))
    except (OSError, ValueError, RecursionError):
        return None


def studies(store: Path) -> list[str]:
    """The studies that were run over this store."""
    return sorted(p.name for p in (store / FOLDER).glob("*") if p.is_dir())


def all_of(store: Path) -> Iterator[Receipt]:
    """The receipts of all runs of all studies."""
    for study in studies(store):
        for path in sorted((store / FOLDER / study).glob("*.json")):
            found = None if path.name == GRID else read(store, study, path.stem)
            if found is not None:
                yield found


def _keep(path: Path, told: dict[str, Any]) -> None:
    try:
        with ExplainedWhenFull(path):
            write_bytes(path, json.dumps(told, indent=1).encode())
    except (OSError, UserError) as error:
        if getattr(error, "errno", getattr(error.__cause__, "errno", None)) not in CLOSED_TO_US:
            raise


def _path(store: Path, study: str, run: str) -> Path:
    return store / FOLDER / study / f"{run}.json"
