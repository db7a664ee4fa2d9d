"""What a piece of work waits for: the device, the starting of kernels, or Python.

On a GPU the seconds in which at least one kernel ran and the calls that start kernels come from
CUPTI, which takes time of its own for each: seconds of the clock are longer than without. On a CPU
operators are counted instead, nested ones too. Which functions the host was in is sampled by a
thread.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import FrameType, TracebackType
from typing import Any, Self

import torch
from torch.autograd import profiler

EVERY_S = 0.002
"""Between two looks at what the host does."""

TOP = 5
"""Functions that are printed."""

WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
"""Calls that return when the device has done its work; a copy to the host may."""


@dataclass
class Watched:
    """A context that sees what goes on inside."""

    seconds: float = 0.0
    busy: float = 0.0
    """Seconds in which a kernel or a copy ran; on a CPU, of this process's threads."""
    calls: Counter[str] = field(default_factory=Counter)
    """CUDA's calls by name; on a CPU operators."""
    waited: float = 0.0
    """Seconds in calls that wait for the device."""
    kernels: int = 0
    """On the device, those of replayed graphs included."""
    inside: Counter[str] = field(default_factory=Counter)
    """Innermost function of the host, in samples."""
    ours: Counter[str] = field(default_factory=Counter)
    """Innermost function of influbench, in samples."""
    _done: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
        device = "cuda" if self._cuda else None
        self._profile = profiler.profile(
            use_kineto=True, use_cpu=not self._cuda, use_device=device, record_shapes=False
        )
        self._main = threading.get_ident()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._profile.__enter__()
        self._sampler.start()
        self._cpu, self._began = time.process_time(), time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._cuda:
            torch.cuda.synchronize()
        self.seconds = time.perf_counter() - self._began
        cpu = time.process_time() - self._cpu
        self._done.set()
        self._sampler.join()
        self._profile.__exit__(kind, error, trace)
        spans: list[tuple[int, int]] = []
        results: Any = self._profile.kineto_results
        for event in results.events():
            if event.device_type().name != "CPU":
                spans.append((event.start_ns(), event.start_ns() + event.duration_ns()))
            else:
                self.calls[event.name()] += 1
                if event.name().startswith(WAITS):
                    self.waited += event.duration_ns() / 1e9
        self.kernels = len(spans)
        self.busy = covered(spans) / 1e9 if self._cuda else cpu

    @property
    def started(self) -> int:
        """Calls that started a kernel or a graph; on a CPU, operators."""
        if not self._cuda:
            return sum(self.calls.values())
        return sum(n for name, n in self.calls.items() if "Launch" in name)

    @property
    def graphs(self) -> int:
        """Graphs that were replayed."""
        return sum(n for name, n in self.calls.items() if "GraphLaunch" in name)

    def lines(self) -> list[str]:
        """What was seen, for people."""
        share = self.busy / self.seconds if self.seconds else 0.0
        told = (
            f"{self.seconds:.2f} s of the clock, {self.waited:.2f} s of it waiting for the device, "
            f"device busy {self.busy:.2f} s ({share:.0%}), {self.started} launches of which "
            f"{self.graphs} of graphs, {self.kernels} kernels and copies"
            if self._cuda
            else f"{self.seconds:.2f} s of the clock, {self.busy:.2f} CPU s ({share:.0%}), "
            f"{self.started} operator calls"
        )
        found = [told]
        for name, counter in (("in", self.inside), ("ours", self.ours)):
            total = max(1, sum(counter.values()))
            found += [f"{name:4} {n / total:4.0%} {what}" for what, n in counter.most_common(TOP)]
        return found

    def _sample(self) -> None:
        while not self._done.wait(EVERY_S):
            frame = sys._current_frames().get(self._main)  # pyright: ignore[reportPrivateUsage]  # its only name
            if frame is None:
                continue
            self.inside[_name(frame)] += 1
            while frame is not None:
                if frame.f_globals.get("__name__", "").startswith("influbench."):
                    self.ours[_name(frame)] += 1
                    break
                frame = frame.f_back


def covered(spans: Iterable[tuple[int, int]]) -> int:
    """How much the union of intervals covers."""
    total, end = 0, 0
    for start, stop in sorted(spans):
        total += max(0, stop - max(start, end))
        end = max(end, stop)
    return total


def _name(frame: FrameType) -> str:
    return f"{frame.f_globals.get('__name__', '?')}.{frame.f_code.co_qualname}"
