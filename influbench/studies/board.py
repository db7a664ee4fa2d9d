"""How a sweep stands, on stderr: a live table, or a line a run where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from influbench import terminal
from influbench.executors import Outcome
from influbench.studies.single import Done
from influbench.terminal.progress import Advance, RichProgress

ROOM = 8
"""Lines of a terminal that are left to other things than runs."""
SCREEN = 24
"""Of a study with more runs those that are cached have no line each: the summary counts them."""


@dataclass
class _Line:
    state: str = "waiting"
    stage: str = ""
    began: float = 0.0
    seconds: float = 0.0


class Board:
    """The runs of a sweep as they go; also the progress of a run that this process works on."""

    def __init__(
        self, study: str, runs: Sequence[str], workers: int, console: Console | None = None
    ) -> None:
        """A board that shows nothing yet."""
        self.console = console or terminal.console(stderr=True)
        self._study, self._runs, self._workers = study, list(runs), workers
        self._lines = {run: _Line() for run in runs}
        self._plain = RichProgress(self.console)
        self._cost: dict[str, tuple[float, float]] = {}
        self._current = ""
        self._said = ""
        self._live: Live | None = None

    def __enter__(self) -> Self:
        """Draws the table, on a terminal."""
        if self.console.is_terminal:
            self._live = Live(get_renderable=self.table, console=self.console, refresh_per_second=2)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leaves it as it stands."""
        if self._live is not None:
            self._live.stop()
        elif len(self._runs) > 1:
            self._plain.note(self.summary())

    def begin(self, run: str) -> None:
        """A worker takes a run."""
        self._current = run
        line = self._lines[run]
        line.state, line.began = "running", time.monotonic()

    def end(self, run: str, outcome: Outcome) -> None:
        """A run has ended."""
        line = self._lines[run]
        line.stage, line.seconds = "", time.monotonic() - line.began
        if isinstance(outcome.value, Done):
            done = outcome.value
            self._cost |= done.cost
            line.state = "done" if done.made else "cached"
            kept = f", {done.kept} kept" if done.kept else ""
            said = f"done in {done.seconds:.1f} s ({done.made} stages made{kept})"
            said = said if done.made else "cached"
        else:
            line.state, said = "failed", f"failed: {outcome.error}"
        alone_and_failed = len(self._runs) == 1 and line.state == "failed"  # the command says it
        one_of_many = len(self._runs) > SCREEN and line.state == "cached"
        if self._live is None and not alone_and_failed and not one_of_many:
            self._plain.note(f"{self._study} {self._ended()}/{len(self._runs)}: {run}: {said}")

    def note(self, text: str) -> None:
        """Says one line of the run that this process works on; its name comes first, once."""
        if self._live is not None:
            self._lines[self._current].stage = text
            return
        if self._said != self._current:
            self._said = self._current
            self._plain.note(f"{self._study}: {self._current}: started")
        self._plain.note(text)

    def task(self, description: str, total: int, done: int = 0) -> AbstractContextManager[Advance]:
        """Follows a stage of the run that this process works on."""
        if self._live is None:
            return self._plain.task(description, total, done)
        return self._stage(description, total, done)

    @contextmanager
    def _stage(self, description: str, total: int, done: int) -> Generator[Advance]:
        line, now = self._lines[self._current], done

        def advance(n: int) -> None:
            nonlocal now
            now += n
            line.stage = f"{description} {now}/{total}"

        advance(0)
        yield advance

    def summary(self) -> str:
        """One line: how many runs, what they cost, how long the rest will take."""
        states = [line.state for line in self._lines.values()]
        counts = ", ".join(
            f"{states.count(state)} {state}"
            for state in ("done", "cached", "running", "failed", "waiting")
            if state in states
        )
        seconds = sum(cost[0] for cost in self._cost.values())
        money = sum(cost[1] for cost in self._cost.values())
        paid = f" and ${money:.2f}" if money else ""
        return (
            f"{self._study}: {len(states)} runs: {counts}; cost so far {clock(seconds)}{paid}"
            f"{self._left()}"
        )

    def table(self) -> Table:
        """The runs, as many as the terminal has room for: those at work and those that failed."""
        table = Table(title=terminal.line(self.summary()))
        for column in ("run", "state", "time", "stage"):
            table.add_column(column, no_wrap=True, overflow="ellipsis")
        order = ("running", "failed", "waiting", "done", "cached")
        shown = sorted(self._runs, key=lambda run: order.index(self._lines[run].state))
        room = max(1, self.console.size.height - ROOM)
        for run in [run for run in self._runs if run in shown[:room]]:
            line = self._lines[run]
            now = time.monotonic() - line.began if line.state == "running" else line.seconds
            took = clock(now) if line.state != "waiting" else ""
            table.add_row(*map(terminal.cell, (run, line.state, took, line.stage)))
        return table

    def _ended(self) -> int:
        return sum(line.state in ("done", "cached", "failed") for line in self._lines.values())

    def _left(self) -> str:
        took = [line.seconds for line in self._lines.values() if line.state == "done"]
        rest = len(self._runs) - self._ended()
        return f"; {time_left(took, rest, self._workers)}" if rest else ""


def time_left(took: Sequence[float], rest: int, workers: int) -> str:
    """How long ``rest`` runs will take, judged by what finished ones took."""
    if not took:
        return "time left not known before a run is done"
    return f"about {clock(sum(took) / len(took) * rest / workers)} left"


def clock(seconds: float) -> str:
    """A time for people: ``0:01:05``."""
    return str(timedelta(seconds=round(seconds)))
