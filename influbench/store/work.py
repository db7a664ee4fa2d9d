"""A stage of the loop, and what its function writes through."""

from __future__ import annotations

import gc
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from influbench.data.records import ModelRef
from influbench.files import to_line, write_bytes
from influbench.store.chunks import Chunks
from influbench.store.disk import ExplainedWhenFull
from influbench.store.entry import UNFINISHED
from influbench.store.ledger import Meter
from influbench.terminal.progress import Progress, SilentProgress

R = TypeVar("R")
T = TypeVar("T")

Input = Sequence[object] | ModelRef | str | None


def models_of(inputs: Sequence[Input]) -> list[ModelRef]:
    """The models among the inputs of a stage."""
    return [value for value in inputs if isinstance(value, ModelRef)]


def _always(_: object) -> bool:
    return True


@dataclass(frozen=True)
class Stage:
    """A step of the loop: a function of a config and records, whose result is kept."""

    name: str
    version: int
    """Goes up when the same inputs would give another result."""
    function: Callable[..., None]
    """``function(config, *inputs, work: Work)``."""
    opens: Callable[[Any], bool] = _always
    """Whether, by its config, it opens the weights of the models that it is given."""


@dataclass(frozen=True)
class Work:
    """What a stage function writes through."""

    path: Path
    """The entry's folder; what a killed attempt left in it is still there."""
    meter: Meter
    progress: Progress = field(default_factory=SilentProgress)
    title: str = ""
    """Stage and label, for people."""
    meta: dict[str, Any] = field(default_factory=dict)
    """Facts beside the records, plain JSON types; they come back as ``Entry.meta``."""
    _emptied: set[str] = field(default_factory=set)

    def write(self, name: str, records: Sequence[object]) -> None:
        """Writes ``records`` as ``<name>.jsonl`` of the entry."""
        data = "".join(to_line(r) + "\n" for r in records).encode()
        path = self.path / f"{name}.jsonl"
        with ExplainedWhenFull(path, needed=len(data)):
            write_bytes(path, data)

    def folder(self, name: str) -> Path:
        """A folder of the entry, for a model: ``Entry.model`` gives it to the next stage.

        It starts empty, whatever a killed attempt left. One named ``scratch`` goes when the entry
        is whole.
        """
        path = self.path / name
        if name not in self._emptied and path.exists():
            shutil.rmtree(path)
        self._emptied.add(name)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def chunks(
        self,
        name: str,
        items: Sequence[T],
        function: Callable[[list[T]], Sequence[R]],
        *,
        size: int,
        kind: type[R],
        owns: Callable[[int], bool] = lambda _: True,
    ) -> list[R]:
        """Applies ``function`` to ``items``, ``size`` at a time; finished chunks survive a kill.

        Args:
            name: unique in the stage.
            items: records, or anything that JSON can say.
            function: the records that a chunk of items gives; any number of them.
            size: items a chunk. Chunks of another size are not reused: batching may move results.
            kind: the records' type.
            owns: whether chunk number n is ours; the others are left to other processes.

        Returns:
            The records of all chunks that are ours, in the order of the items.
        """
        kept = Chunks(self.path / UNFINISHED[0] / name, kind)
        parts = [
            (number, list(items[start : start + size]))
            for number, start in enumerate(range(0, len(items), size))
            if owns(number)
        ]
        found = [kept.read(number, part) for number, part in parts]
        total = sum(len(part) for _, part in parts)
        done = sum(len(part) for (_, part), f in zip(parts, found, strict=True) if f is not None)
        if done:
            self.progress.note(f"{self.title}: resumes {name}, {done} of {total} done before")
        records: list[R] = []
        with self.progress.task(f"{self.title}: {name}", total, done) as advance:
            for (number, part), before in zip(parts, found, strict=True):
                if before is not None:
                    records.extend(before)
                    continue
                made = function(part)
                self.meter.flush()  # first: killed in between, work done twice counts twice
                records.extend(kept.write(number, part, made))
                advance(len(part))
        return records

    def left(self, name: str, items: Sequence[object], *, size: int, kind: type) -> set[int]:
        """Numbers of the chunks of ``items`` that are not finished; see :meth:`chunks`."""
        kept = Chunks(self.path / UNFINISHED[0] / name, kind)
        starts = enumerate(range(0, len(items), size))
        return {n for n, start in starts if kept.read(n, items[start : start + size]) is None}

    def finished(self, name: str) -> int:
        """How many chunks of ``name`` are there, whoever made them."""
        return len(list((self.path / UNFINISHED[0] / name).glob("[0-9]*.jsonl")))


def free_device_memory() -> None:
    """Gives back what a stage's models held on a GPU, which other processes may be using too.

    Trainers hold their models in cycles, and torch keeps for itself what it has once allocated.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()
