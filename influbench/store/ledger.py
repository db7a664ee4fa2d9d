"""The ledger: what every phase of a stage cost, measured around it and never by it.

Phases may nest: the inner one takes over the clock and the counts until it ends, so that the rows
of a stage add up to what it cost and nothing is in two rows.

Costs are written as they arise (where a phase begins and ends and at every ``flush``): a killed
process leaves all but its last few, the next attempt adds its own. What is done twice counts twice.

Memory: on a GPU the most that was allocated during the phase, over devices; on a CPU the peak
resident memory of the process (see ``peak_memory``).
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import psutil
from pydantic import Field, NonNegativeInt

from influbench.data.records import LedgerRow
from influbench.files import from_dict
from influbench.store.peak_memory import ResidentPeak

if TYPE_CHECKING:
    from torch import nn


_Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(slots=True)
class Cost:
    """What was spent since the last line of the ledger; fields as in ``LedgerRow``."""

    items: NonNegativeInt = 0
    seconds: _Amount = 0.0
    device_seconds: _Amount = 0.0
    peak_bytes: NonNegativeInt = 0
    forward_passes: _Amount = 0
    backward_passes: _Amount = 0
    tokens: NonNegativeInt = 0
    api_calls: NonNegativeInt = 0
    api_prompt_tokens: NonNegativeInt = 0
    api_completion_tokens: NonNegativeInt = 0
    money: _Amount = 0.0

    def add(self, other: Cost) -> None:
        """Adds up everything but the peak, of which the larger stays."""
        peak = max(self.peak_bytes, other.peak_bytes)
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))
        self.peak_bytes = peak


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of the ledger."""

    attempt: str
    """Which process wrote it."""
    stage: str
    label: str
    phase: str
    device: str
    """What models ran on; empty where none did."""
    cost: Cost


NAMES = ("attempt", "stage", "label", "phase")
"""What a line must say beside what was spent."""


class Phase:
    """One open phase of a stage."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.cost = Cost()
        self._memory = ResidentPeak()
        self._began = 0.0

    def add_api(
        self, calls: int, prompt_tokens: int, completion_tokens: int, money: float = 0.0
    ) -> None:
        """Adds requests to an API.

        Args:
            calls: how many requests.
            prompt_tokens: tokens sent.
            completion_tokens: tokens received.
            money: US dollars.
        """
        self.cost.api_calls += calls
        self.cost.api_prompt_tokens += prompt_tokens
        self.cost.api_completion_tokens += completion_tokens
        self.cost.money += money

    def resume(self) -> None:
        """Starts the clock and the search for the peak."""
        cuda = _cuda()
        self._memory.start()
        for device in _devices(cuda):
            cuda.synchronize(device)
            cuda.reset_peak_memory_stats(device)
        self._began = time.perf_counter()

    def pause(self) -> None:
        """Stops the clock and books what has gone by, after the GPUs have finished their work."""
        resident = self._memory.stop()
        cuda = _cuda()
        devices = _devices(cuda)
        for device in devices:
            cuda.synchronize(device)
        seconds = time.perf_counter() - self._began
        peak = resident if cuda is None else max(map(cuda.max_memory_allocated, devices), default=0)
        self.cost.seconds += seconds
        self.cost.device_seconds += seconds * len(devices)
        self.cost.peak_bytes = max(self.cost.peak_bytes, peak)


class Meter:
    """Keeps the ledger of one stage."""

    def __init__(self, path: Path | None = None, *, stage: str = "", label: str = "") -> None:
        """Opens a ledger.

        Args:
            path: the file that it is kept in, one JSON line a cost; what is there already counts.
                None keeps it in memory.
            stage: the stage's name, for the rows.
            label: which estimator, student or judge, for the rows.
        """
        self.path = path
        self.stage = stage
        self.label = label
        self._open: list[Phase] = []
        self._counted, self._lines = set[int](), list[_Line]()

    @contextmanager
    def phase(
        self, name: str, *, items: int = 0, models: Sequence[nn.Module] = ()
    ) -> Generator[Phase]:
        """Measures what happens inside.

        Args:
            name: ``prepare``, ``score``, ``run`` …; equal names make one row.
            items: how many candidates, pairs, prompts … are handled; booked when it has
                succeeded.
            models: networks whose passes count, each once however it is called.
        """
        with ExitStack() as stack:
            self._count(models, stack)
            if self._open:
                self._settle(self._open[-1])
            phase = Phase(name)
            self._open.append(phase)
            self._write(phase)  # a process killed from here on has left its name as an attempt
            phase.resume()
            try:
                yield phase
                phase.cost.items += items
            finally:
                try:
                    self._settle(phase)
                finally:
                    self._open.remove(phase)
                    if self._open:
                        self._open[-1].resume()

    def flush(self) -> None:
        """Writes what the open phase has cost so far, so that a kill cannot take it away."""
        if self._open:
            self._settle(self._open[-1])
            self._open[-1].resume()

    def rows(self) -> list[LedgerRow]:
        """The ledger so far, added up by phase over all attempts, in order of first appearance."""
        total: dict[tuple[str, str, str], Cost] = {}
        attempts: dict[tuple[str, str, str], set[str]] = {}
        devices: dict[tuple[str, str, str], dict[str, None]] = {}
        for line in self._read():
            key = line.stage, line.label, line.phase
            attempts.setdefault(key, set()).add(line.attempt)
            devices.setdefault(key, {}).update(dict.fromkeys([line.device] if line.device else ()))
            total.setdefault(key, Cost()).add(line.cost)
        return [
            LedgerRow(
                stage=key[0],
                label=key[1],
                phase=key[2],
                attempts=len(attempts[key]),
                device=", ".join(devices[key]),
                **dataclasses.asdict(cost),
            )
            for key, cost in total.items()
        ]

    def forward(self, sequences: int, positions: int) -> None:
        """Books passes forward to the open phase (see ``passes.Sink``)."""
        if self._open:
            self._open[-1].cost.forward_passes += sequences
            self._open[-1].cost.tokens += positions

    def backward(self, sequences: int) -> None:
        """Books passes backward to the open phase (see ``passes.Sink``)."""
        if self._open:
            self._open[-1].cost.backward_passes += sequences

    def _count(self, models: Sequence[nn.Module], stack: ExitStack) -> None:
        if not models:
            return
        from influbench.store import passes

        found = {id(b): b for b in map(passes.backbone, models)}
        new = {k: b for k, b in found.items() if k not in self._counted}
        self._counted.update(new)
        stack.callback(self._counted.difference_update, new)
        stack.enter_context(passes.counted(new.values(), self))

    def _settle(self, phase: Phase) -> None:
        phase.pause()
        self._write(phase)
        phase.cost = Cost()

    def _write(self, phase: Phase) -> None:
        cost = dataclasses.replace(phase.cost)
        attempt = _attempt(os.getpid())
        device = _in_words() if cost.forward_passes or cost.backward_passes else ""
        line = _Line(attempt, self.stage, self.label, phase.name, device, cost)
        if self.path is None:
            self._lines.append(line)
        else:
            told = {name: getattr(line, name) for name in (*NAMES, "device")}
            told |= dataclasses.asdict(cost)
            _append(self.path, json.dumps(told, ensure_ascii=False, allow_nan=False))

    def _read(self) -> list[_Line]:
        if self.path is None:
            return self._lines
        if not self.path.exists():
            return []
        whole, _, _ = self.path.read_bytes().rpartition(b"\n")
        found: list[_Line] = []
        for number, line in enumerate(whole.split(b"\n") if whole else (), 1):
            try:
                told = json.loads(line)
                names = {name: told.pop(name) for name in NAMES}
                names["device"] = str(told.pop("device", ""))
                names["cost"] = from_dict(Cost, told)
                found.append(from_dict(_Line, names))
            except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
                sys.stderr.write(f"{self.path}:{number}: damaged; what it cost is not counted\n")
        return found


@functools.cache
def _attempt(pid: int) -> str:
    """Names this process; asked once: the answer moves with corrections of the clock."""
    return f"{pid}-{psutil.Process(pid).create_time()}"


def _append(path: Path, line: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        end = file.tell()
        file.seek(max(0, end - 1))
        if file.read(1) not in (b"", b"\n"):  # a line cut short by a full disk or a power cut
            whole, newline, _ = path.read_bytes().rpartition(b"\n")
            file.truncate(len(whole + newline))
        file.write(line.encode() + b"\n")


def _cuda() -> Any:
    """``torch.cuda`` where this process has used it already; asking starts nothing."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None


def _in_words() -> str:
    """What the models of this process run on: the GPUs' own names, each once, or ``cpu``."""
    cuda = _cuda()
    names = dict.fromkeys(cuda.get_device_name(device) for device in _devices(cuda))
    return ", ".join(names) or "cpu"


def _devices(cuda: Any) -> list[int]:
    """The GPUs that this process has taken memory on; touching another would take some."""
    if cuda is None:
        return []
    return [d for d in range(cuda.device_count()) if cuda.max_memory_reserved(d) > 0]
