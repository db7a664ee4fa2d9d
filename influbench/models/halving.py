"""Batches on a device that may be too small for them, or shared: in halves where they do not fit.

Several processes may use one GPU, so that what is free changes while a batch runs. Out of memory
is met with half of the batch, and of a single item with some patience for the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch

from influbench.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

PATIENCE_S = 2.0, 4.0, 8.0, 16.0, 32.0
"""Waits before one item is tried again, where other processes may give back what they hold."""

CONTEXT = 2 << 30
"""Bytes of a GPU that are in nobody's batches: this process's context, and the driver's."""


def crowded() -> bool:
    """Whether other processes hold memory of the GPU in use."""
    if not torch.cuda.is_available():
        return False
    free, total = torch.cuda.mem_get_info()
    return total - free - torch.cuda.memory_reserved() > CONTEXT


def waited(waits: Iterator[float]) -> bool:
    """Waits for other processes on the GPU; False where there are none, or no patience is left."""
    wait = next(waits, None) if crowded() else None
    if wait is not None:
        torch.cuda.empty_cache()
        time.sleep(wait)
    return wait is not None


@contextmanager
def in_room(what: str, hint: str) -> Generator[None]:
    """Says in one line that the device is too small for all that is done inside.

    Raises:
        UserError: it was.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(f"{what}: the device has no memory left: {hint}") from error


@dataclass
class Halves:
    """Runs batches; one that is larger than what did not fit before is halved without a try."""

    hint: str
    """What to do where not even one item fits, for the error message."""
    failed: int | None = None
    """Items of the smallest batch that did not fit."""

    def __call__(
        self, items: Sequence[Item], run: Callable[[Sequence[Item]], Result]
    ) -> Iterator[tuple[Sequence[Item], Result]]:
        """What ``run`` gives for ``items``, or for parts of them, in order.

        Raises:
            UserError: no room for one item.
        """
        pending = [items]
        waits = iter(PATIENCE_S)
        while pending:
            part = pending.pop()
            if len(part) == 1 or self.failed is None or len(part) < self.failed:
                try:
                    result = run(part)
                except torch.OutOfMemoryError:
                    self.failed = min(len(part), self.failed or len(part))
                else:
                    yield part, result
                    continue
            # Only here the error, whose traceback holds what the pass had made, is gone.
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            middle = len(part) // 2
            if middle:
                pending += [part[middle:], part[:middle]]
                continue
            if not waited(waits):
                raise UserError(f"the device has no memory left for a batch of one: {self.hint}")
            pending.append(part)
