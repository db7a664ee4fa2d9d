"""Where tasks run: one small contract, and what a task leaves.

A task is a function of a module, called on plain data. Whatever it writes goes through the store,
so where it runs changes no record, and a task that is lost goes on from its last safe point when it
is given to another worker. There is no queue and no scheduler here: the pool is the standard
library's, the cluster's are Slurm and Ray.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from influbench.errors import MethodError, UserError, of_the_machine
from influbench.store import BusyError

T = TypeVar("T")

RETRIES = 2
"""How often a task whose worker was lost is given to another one."""


@dataclass(frozen=True)
class Outcome:
    """What a task left: a value, or a line that says why there is none."""

    value: Any = None
    kind: Literal["done", "busy", "user", "method", "bug"] = "done"
    """``busy``: another process is at work on what it needs; ``user``, ``method`` and ``bug``: it
    failed, by whose mistake."""
    error: str = ""

    def or_raise(self) -> Any:
        """The value.

        Raises:
            UserError: the task failed by the user's mistake.
            MethodError: by that of somebody else's estimator.
            RuntimeError: by ours, or its worker was lost.
        """
        if self.kind == "user":
            raise UserError(self.error)
        if self.kind == "method":
            raise MethodError(self.error)
        if self.kind != "done":
            raise RuntimeError(f"a worker: {self.error}; what was finished is kept")
        return self.value


class WorkerLostError(RuntimeError):
    """A worker ended without a word: killed, or out of memory."""


class Executor(Protocol):
    """Runs tasks somewhere."""

    @property
    def workers(self) -> int:
        """How many tasks run at a time."""
        ...

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Outcome]:
        """Starts ``function(*args)``; its errors are in the outcome.

        The future raises ``WorkerLostError`` where the worker ended without a word.
        """
        ...

    def close(self) -> None:
        """Gives the workers back; what still runs is stopped."""
        ...


def attempt(function: Callable[..., Any], *args: Any) -> Outcome:
    """What a worker does with a task; errors become lines, since not all survive the journey."""
    try:
        return Outcome(function(*args))
    except BusyError as error:
        return Outcome(kind="busy", error=str(error))
    except UserError as error:
        return Outcome(kind="user", error=" ".join(str(error).split()))
    except MethodError as error:
        return Outcome(kind="method", error=str(error))
    except Exception as error:
        if line := of_the_machine(error):
            return Outcome(kind="user", error=line)
        if os.environ.get("INFLUBENCH_DEBUG"):
            traceback.print_exc()
        return Outcome(kind="bug", error=said(error))


def said(error: BaseException) -> str:
    """An error and where it was raised, as one line."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())[:500]
    return f"{type(error).__name__}: {text} ({Path(last.filename).name}:{last.lineno})"


def mapped(
    executor: Executor,
    function: Callable[..., Any],
    tasks: Sequence[tuple[Any, ...]],
    *,
    tick: Callable[[], None] = lambda: None,
    started: Callable[[int], None] = lambda _: None,
) -> Iterator[tuple[int, Outcome]]:
    """Outcomes of ``function(*task, patient)`` in the order in which they come, with their number.

    A task that finds another process at work on what it needs says ``busy``; it is put back and
    another one is taken. Where all that are left are busy, one is told to be ``patient``: to wait
    for the first thing that it cannot have.

    Args:
        executor: runs them.
        function: of a module, so that a fresh process can import it.
        tasks: arguments, plain data.
        tick: called about once a second while something runs.
        started: told of a task that starts.
    """
    waiting: deque[int] = deque(range(len(tasks)))
    refused: set[int] = set()
    lost = dict.fromkeys(waiting, 0)
    running: dict[Future[Outcome], int] = {}
    while waiting or running:
        while waiting and len(running) < executor.workers:
            number = next((n for n in waiting if n not in refused), waiting[0])
            waiting.remove(number)
            started(number)
            future = executor.submit(function, *tasks[number], number in refused)
            running[future] = number
            refused.discard(number)
        done, _ = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
        tick()
        for future in done:
            number = running.pop(future)
            outcome = _outcome(future)
            if outcome is None:
                lost[number] += 1
                sys.stderr.write(
                    f"task {number + 1}: its worker was lost; another goes on from what is there\n"
                )
                if lost[number] <= RETRIES:
                    waiting.append(number)
                    continue
                outcome = Outcome(
                    kind="bug",
                    error=f"its worker was lost {lost[number]} times (killed, or out of memory?)",
                )
            if outcome.kind == "busy":
                waiting.append(number)
                refused.add(number)
                continue
            refused.clear()
            yield number, outcome


def _outcome(future: Future[Outcome]) -> Outcome | None:
    """What a finished task left; None where its worker was lost."""
    try:
        return future.result()
    except WorkerLostError:
        return None
