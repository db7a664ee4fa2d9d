"""What a long stage shows while it works, on stderr, so that stdout stays the result."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from influbench import terminal

Advance = Callable[[int], None]


class Progress(Protocol):
    """Shows how far something is."""

    def task(self, description: str, total: int, done: int = 0) -> AbstractContextManager[Advance]:
        """Follows ``total`` items, ``done`` of which an earlier attempt has finished.

        Yields ``advance(n)``: ``n`` more are done.
        """
        ...

    def note(self, text: str) -> None:
        """Says one line."""
        ...


@dataclass(frozen=True)
class SilentProgress:
    """Shows nothing."""

    @contextmanager
    def task(
        self,
        description: str,  # noqa: ARG002
        total: int,  # noqa: ARG002
        done: int = 0,  # noqa: ARG002
    ) -> Generator[Advance]:
        """Follows nothing."""
        yield lambda _: None

    def note(self, text: str) -> None:
        """Says nothing."""


@dataclass(frozen=True)
class RichProgress:
    """A bar with count, time spent and time left; where stderr is a file, a line now and then."""

    console: Console = field(default_factory=lambda: terminal.console(stderr=True))
    every: float = 10.0
    """Seconds between two lines, at least, where there is no terminal."""
    clock: Callable[[], float] = time.monotonic

    def task(self, description: str, total: int, done: int = 0) -> AbstractContextManager[Advance]:
        """Follows ``total`` items; see :class:`Progress`."""
        if self.console.is_terminal:
            return self._bar(description, total, done)
        return self._lines(description, total, done)

    def note(self, text: str) -> None:
        """Says one line, above a bar if there is one."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def _bar(self, description: str, total: int, done: int) -> Generator[Advance]:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Bars(*columns, console=self.console) as bars:
            task = bars.add_task(terminal.line(description), total=total, completed=done)
            yield lambda n: bars.advance(task, n)

    @contextmanager
    def _lines(self, description: str, total: int, done: int) -> Generator[Advance]:
        began = said = self.clock()
        now_done = done

        def advance(n: int) -> None:
            nonlocal now_done, said
            now_done += n
            now = self.clock()
            if now - said < self.every:
                return
            said = now
            rate = (now_done - done) / (now - began)
            left = timedelta(seconds=round((total - now_done) / rate)) if rate else "?"
            share = now_done / total
            self.note(f"{description}: {share:.0%} ({now_done}/{total}), {left} left")

        yield advance
