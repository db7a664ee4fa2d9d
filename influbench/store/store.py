"""Runs a stage once per distinct input, and resumes it where a kill left it.

An entry is a folder ``<stage>-<label>-<key>`` whose ``manifest.json`` is written last, by rename:
with it the entry is whole, without it half-done. The next attempt finds the finished chunks, the
ledger and the files of a half-done entry as they were. Records never hold a clock, so the files of
an entry are the same bytes however often it was killed.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from influbench.config import Config
from influbench.data.records import ModelRef
from influbench.files import digest, to_line, write_bytes
from influbench.store.chunks import Chunks
from influbench.store.disk import ExplainedWhenFull
from influbench.store.entry import (
    LEDGER,
    MANIFEST,
    UNFINISHED,
    Entry,
    damage,
    files,
    read_manifest,
)
from influbench.store.ledger import Meter
from influbench.store.presence import FOLDER, Presence, present
from influbench.terminal.progress import Progress, SilentProgress

R = TypeVar("R")
T = TypeVar("T")

LONGEST = 60
"""Characters of a label in the name of an entry's folder."""

Input = Sequence[object] | ModelRef | str | None


class BusyError(RuntimeError):
    """Another process is at work on the entry, and the store was told not to wait."""


class MissingError(RuntimeError):
    """The entry is not there, and the store was told to make none."""


@dataclass(frozen=True)
class Stage:
    """A step of the loop: a function of a config and records, whose result is kept."""

    name: str
    version: int
    """Goes up when the same inputs would give another result."""
    function: Callable[..., None]
    """``function(config, *inputs, work: Work)``."""


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


class Store:
    """A folder of entries."""

    def __init__(
        self,
        root: Path,
        progress: Progress | None = None,
        *,
        waits: int | None = None,
        makes: bool = True,
    ) -> None:
        """Opens the store at ``root``, which need not exist.

        Args:
            root: of all entries.
            progress: silent by default.
            waits: how often to wait for another process that works on what is needed; by default as
                often as need be.
            makes: whether to make what is not there.
        """
        self.root = root.resolve()
        self.progress: Progress = progress or SilentProgress()
        self.waits = waits
        self.makes = makes
        self._presence: Presence | None = None

    def run(self, stage: Stage, config: Config, *inputs: Input, label: str = "") -> Entry:
        """The entry of a stage for these inputs: read if it is there, else made.

        Args:
            stage: what to run.
            config: its settings; those declared ``transport`` are not part of the key.
            *inputs: what the stage function gets after the config.
            label: which estimator, student or judge; part of the folder's name, not of the key.

        Raises:
            UserError: the disk is full, or the store cannot be written.
            BusyError: another process is at work on it, and the store does not wait.
            MissingError: it is not there, and the store makes nothing.
        """
        told = {
            "stage": stage.name,
            "version": stage.version,
            "config": config.identity(),
            "inputs": [_identity(value) for value in inputs],
        }
        key = digest(json.dumps(told, sort_keys=True))
        named = re.sub(r"[^\w.+-]+", "_", label)[:LONGEST]
        name = "-".join(p for p in (stage.name, named, key[:16]) if p)
        path = self.root / name
        title = f"{stage.name} {label}".strip()
        with ExplainedWhenFull(path):
            self._presence = self._presence or present(self.root, self.makes)
            if self._whole(path, key):
                return Entry(path, key, cached=True, meta=read_manifest(path).meta)
            if not self.makes:
                raise MissingError(title)
            with self._alone(self.root / FOLDER / f"{name}.lock", title):
                # Another process may have made it meanwhile.
                if self._whole(path, key):
                    return Entry(path, key, cached=True, meta=read_manifest(path).meta)
                _clear(path, key, title)
                meter = Meter(path / LEDGER, stage=stage.name, label=label)
                work = Work(path, meter, self.progress, title)
                self.progress.note(f"{title}: started")
                with meter.phase("run"):
                    stage.function(config, *inputs, work=work)
                self._finish(work, {"key": key, "label": label, **told})
        return Entry(path, key, cached=False, meta=read_manifest(path).meta)

    @contextmanager
    def _alone(self, path: Path, title: str) -> Generator[None]:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if self.waits == 0:
                raise BusyError(f"{title}: another process is working on it") from None
            self.waits = None if self.waits is None else self.waits - 1
            sys.stderr.write(f"{title}: another process is working on it; waiting for it\n")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _whole(self, path: Path, key: str) -> bool:
        if not (path / MANIFEST).exists() or damage(path, key):
            return False
        _tidy(path)  # a kill may have come between the manifest and this
        return True

    def _finish(self, work: Work, told: dict[str, Any]) -> None:
        rows = work.meter.rows()
        manifest = {
            **told,
            "files": {name: dataclasses.asdict(f) for name, f in files(work.path).items()},
            "meta": work.meta,
            "ledger": [dataclasses.asdict(row) for row in rows],
            "influbench": version("influbench"),
        }
        text = json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=False)
        write_bytes(work.path / MANIFEST, text.encode())
        _tidy(work.path)
        self.progress.note(f"{work.title}: done in {sum(row.seconds for row in rows):.1f} s")


def _identity(value: Input) -> str:
    if value is None:
        return "none"
    if isinstance(value, ModelRef):
        return f"model:{value.digest}"
    if isinstance(value, str):
        return f"text:{digest(value)}"
    return f"records:{digest(value)}"


def _clear(path: Path, key: str, title: str) -> None:
    """Removes a damaged entry, and from a half-done one the files that a kill cut short."""
    if (path / MANIFEST).exists():
        problem = damage(path, key)[0]
        sys.stderr.write(f"{title}: damaged, made again ({problem})\n")
        (path / MANIFEST).unlink()  # first: killed in here, it must not look whole
        shutil.rmtree(path)
    for left in path.glob(".*"):
        if left.is_file():
            left.unlink()


def _tidy(path: Path) -> None:
    for name in UNFINISHED:
        shutil.rmtree(path / name, ignore_errors=True)
