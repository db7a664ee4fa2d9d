"""What a calibration looks at to tell the time.

Seconds are wall time, on a CPU of one thread those of the thread: the same where the machine is
free, and right on one that others use. Several threads wait for each other, which no count of CPU
seconds has; what others took of the cores meanwhile then stands beside the speeds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil
import torch

from influbench.terminal.progress import Advance


@dataclass
class Clock:
    """Seconds on a device, and what others took of its cores meanwhile."""

    device: str
    began: float = field(default_factory=time.perf_counter)
    busy: float = field(default_factory=lambda: _busy())
    own: float = field(default_factory=time.process_time)

    def __call__(self) -> float:
        """Now."""
        if self.device != "cpu":
            torch.cuda.synchronize()
        alone = self.device == "cpu" and torch.get_num_threads() == 1
        return time.thread_time() if alone else time.perf_counter()

    def of(self, work: Callable[[], object]) -> float:
        """Seconds of one call, after a first one that is not counted."""
        work()
        began = self()
        work()
        return self() - began

    def others(self) -> float:
        """Cores that others kept busy since the beginning."""
        wall = time.perf_counter() - self.began
        return max(0.0, _busy() - self.busy - (time.process_time() - self.own)) / wall


def _busy() -> float:
    """CPU seconds of all processes since the machine has started."""
    found = psutil.cpu_times()
    return float(found.user + found.nice + found.system)


@dataclass
class Steps:
    """Notes when a training has done a step, in the place of a bar on the screen."""

    clock: Clock
    done: list[float] = field(default_factory=list)

    @contextmanager
    def task(self, description: str, total: int, done: int = 0) -> Generator[Advance]:  # noqa: ARG002
        """Follows a training."""
        yield lambda _: self.done.append(self.clock())

    def note(self, text: str) -> None:
        """Says nothing."""

    @property
    def last(self) -> float:
        """Seconds of the last step; the first one makes moments and kernels."""
        return self.done[-1] - self.done[-2]
