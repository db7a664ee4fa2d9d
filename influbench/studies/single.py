"""One run of a study as a task: plain data in, plain data out, wherever it runs."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from influbench.results import result_file
from influbench.store import BusyError, Entry, MissingError, Store, receipts
from influbench.store.budget import Budget
from influbench.store.receipts import Receipt, State
from influbench.store.session import Session
from influbench.studies import kind as kinds
from influbench.terminal.progress import Progress, SilentProgress


@dataclass(frozen=True, kw_only=True)
class Task:
    """A run of a study, as it is given to a worker."""

    kind: str
    settings: Mapping[str, Any]
    """Plain JSON types."""
    study: str
    run: str
    store: Path
    results: Path
    sweep: str
    """Which sweep it is of: what its attempts made that were put back or lost is told together."""
    cap: float | None = None
    """US dollars that the study's paid judges may cost."""
    progress: Progress | None = None
    """None shows nothing; given only where the task stays in this process."""

    def shown_by(self, progress: Progress | None) -> Task:
        """The same run with another progress."""
        return dataclasses.replace(self, progress=progress)


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a run left."""

    path: Path
    seconds: float
    made: int
    """Stages that were run."""
    kept: int
    """Stages that were there."""
    cost: Mapping[str, tuple[float, float]]
    """Seconds and US dollars of every entry, by its folder, whoever made it."""


@dataclass
class Purse:
    """What a study's judges have cost so far; the runs of one process share it."""

    spent: float = 0.0
    paid: set[str] = dataclasses.field(default_factory=set)


class _Attempt:
    """What an attempt at a run leaves in the store as it goes."""

    def __init__(self, task: Task, before: Receipt | None) -> None:
        """Tells that it has begun, unless the run was done before."""
        receipt = receipts.started(task.study, task.run, task.sweep)
        if before is not None and before.sweep == task.sweep and before.state != "done":
            # Put back, or its worker was lost: nobody else tells what that attempt made.
            receipt = dataclasses.replace(receipt, made=before.made, seconds=before.seconds)
        self._store, self._before, self._first = task.store, before, receipt
        self._known = () if before is None else before.entries
        """What attempts before it came to: a run that is not finished needs it as well."""
        self.entries: dict[str, Entry] = {}
        self._made: set[str] = set()
        self._began = time.monotonic()
        if before is None or before.state != "done":
            receipts.write(task.store, self._now("running"))

    def heard(self, entry: Entry) -> None:
        """An entry was read or made."""
        if not entry.cached:
            self._made.add(entry.path.name)
        known = entry.path.name in self.entries
        self.entries.setdefault(entry.path.name, entry)
        if self._made and not known:
            receipts.write(self._store, self._now("running"))

    def ended(self, state: State, error: str = "", result: str = "") -> Receipt:
        """It is over; a run that was done before and still is keeps what it said."""
        before, now = self._before, self._now(state, error, result)
        if before is None or before.state != "done" or now.made:
            receipts.write(self._store, now)
        elif _matters(before) != _matters(now):
            receipts.write(self._store, dataclasses.replace(now, seconds=before.seconds))
        return now

    def _now(self, state: State, error: str = "", result: str = "") -> Receipt:
        return dataclasses.replace(
            self._first,
            state=state,
            entries=tuple(self.entries | ({} if state == "done" else dict.fromkeys(self._known))),
            made=self._first.made + len(self._made),
            seconds=self._first.seconds + time.monotonic() - self._began,
            error=error,
            result=result,
        )


def run_one(task: Task, purse: Purse, patient: bool) -> Done:
    """Runs a run and writes its result file.

    Args:
        task: the run.
        purse: what was spent before it.
        patient: wait for another process that works on what is needed, once.

    Raises:
        UserError: it cannot go on.
        BusyError: another process is at work on what it needs.
    """
    before = receipts.read(task.store, task.study, task.run)
    if before is not None and before.now == "running" and not before.here and not patient:
        raise BusyError(f"{task.run}: another process runs it")
    kind = kinds.load(task.kind)
    store = Store(task.store, task.progress or SilentProgress(), waits=1 if patient else 0)
    attempt = _Attempt(task, before)
    budget = Budget(task.cap, purse.spent)
    session = Session(store, budget, heard=attempt.heard, paid=set(purse.paid))
    try:
        found = kind.run(kind.settings.model_validate(task.settings), session, task.study, task.run)
        path = result_file.write_if_new(task.results, task.study, task.run, found)
    except BusyError:
        attempt.ended("stopped")
        raise
    except Exception as error:
        attempt.ended("failed", error=" ".join(str(error).split())[:500])
        raise
    finally:
        purse.spent, purse.paid = budget.spent, session.paid
    whole = attempt.ended("done", result=str(path.resolve()))
    return Done(
        path=path,
        seconds=whole.seconds,
        made=whole.made,
        kept=len(attempt.entries) - whole.made,
        cost={name: _cost(entry) for name, entry in attempt.entries.items()},
    )


def first_missing(task: Task) -> str:
    """The first stage that a run would have to make; empty where all is there.

    Raises:
        UserError: it could not run.
    """
    kind = kinds.load(task.kind)
    session = Session(Store(task.store, makes=False))
    try:
        kind.run(kind.settings.model_validate(task.settings), session, task.study, task.run)
    except MissingError as missing:
        return str(missing)
    return ""


def _matters(receipt: Receipt) -> tuple[object, ...]:
    """What a receipt says of the run itself, whichever attempt wrote it."""
    return receipt.state, receipt.entries, receipt.result


def _cost(entry: Entry) -> tuple[float, float]:
    rows = entry.ledger()
    return sum(row.seconds for row in rows), sum(row.money for row in rows)
