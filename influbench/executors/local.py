"""This process: one task after another."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from influbench.executors.executor import Outcome, attempt


@dataclass(frozen=True)
class Local:
    """Runs a task where it is submitted, and returns when it has ended."""

    workers: int = 1

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Outcome]:
        """See ``Executor``."""
        future: Future[Outcome] = Future()
        future.set_result(attempt(function, *args))
        return future

    def close(self) -> None:
        """Nothing is held."""
