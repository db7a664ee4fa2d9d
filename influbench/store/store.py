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
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from influbench.config import Config
from influbench.data.records import ModelRef
from influbench.files import digest
from influbench.store import letting_go
from influbench.store.disk import ExplainedWhenFull
from influbench.store.entry import (
    LEDGER,
    MANIFEST,
    Entry,
    damage,
    files,
    read_manifest,
    remove,
    write_manifest,
)
from influbench.store.ledger import Meter
from influbench.store.presence import FOLDER, Presence, present
from influbench.store.work import Input, Stage, Work, free_device_memory, models_of
from influbench.terminal.progress import Progress, SilentProgress

LONGEST = 60
"""Characters of a label in the name of an entry's folder."""


class BusyError(RuntimeError):
    """Another process is at work on the entry, and the store was told not to wait."""


class MissingError(RuntimeError):
    """The entry is not there, and the store was told to make none."""


@dataclass(frozen=True)
class _Call:
    """What a stage is run with."""

    stage: Stage
    config: Config
    inputs: Sequence[Input]
    label: str

    @property
    def title(self) -> str:
        """Stage and label, for people."""
        return f"{self.stage.name} {self.label}".strip()


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
        self._makers: dict[Path, _Call] = {}
        """By entry whose weights were let go: what makes them again."""
        self._others: set[Path] = set()
        """Entries whose weights were made again and are not the first ones."""

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
        call = _Call(stage, config, inputs, label)
        title = call.title
        with ExplainedWhenFull(path):
            self._presence = self._presence or present(self.root, self.makes)
            if found := self._found(path, key, call):
                return found
            if not self.makes:
                raise MissingError(title)
            with self._alone(path, title):
                # Another process may have made it meanwhile.
                if found := self._found(path, key, call):
                    return found
                self._ready(call)
                _clear(path, key, title)
                self.progress.note(f"{title}: started")
                work = self._made(path, call)
                self._finish(work, {"key": key, "label": label, **told})
        return Entry(path, key, cached=False, meta=read_manifest(path).meta)

    def ready(self, model: ModelRef, user: str) -> None:
        """Makes the weights of a model again where they were let go.

        A stage need not ask: it is run when the models that it opens are ready.

        Args:
            model: of this store, or of another place, where nothing is let go.
            user: what needs it, for people.

        Raises:
            UserError: what made it was not run through this store.
            MissingError: they are not there, and the store makes nothing.
        """
        found = letting_go.owner(Path(model.path))
        if found is None or not found[1].let_go:
            return
        if not self.makes:
            raise MissingError(f"the weights of {found[0].name}")
        path, call = found[0], self._makers.get(found[0])
        if call is None:
            letting_go.refuse(Path(model.path))
            return
        with ExplainedWhenFull(path), self._alone(path, call.title):
            if read_manifest(path).let_go:  # else another process has made them meanwhile
                self._ready(call)
                self.progress.note(f"{call.title}: its weights were let go; made again for {user}")
                work = self._made(path / letting_go.AGAIN, call)
                letting_go.put_back(path, work.meter.rows())
            self._found(path, found[1].key, call)

    def doubt(self, model: ModelRef) -> str:
        """What must be said of numbers made from a model; empty where nothing."""
        return letting_go.DIFFERS if self._others & {*Path(model.path).parents} else ""

    def _ready(self, call: _Call) -> None:
        if call.stage.opens(call.config):
            for model in models_of(call.inputs):
                self.ready(model, call.title)

    def _made(self, folder: Path, call: _Call) -> Work:
        """Runs a stage in a folder."""
        meter = Meter(folder / LEDGER, stage=call.stage.name, label=call.label)
        work = Work(folder, meter, self.progress, call.title)
        with meter.phase("run"):
            call.stage.function(call.config, *call.inputs, work=work)
        free_device_memory()
        return work

    @contextmanager
    def _alone(self, entry: Path, title: str) -> Generator[None]:
        path = self.root / FOLDER / f"{entry.name}.lock"
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

    def _found(self, path: Path, key: str, call: _Call) -> Entry | None:
        if not (path / MANIFEST).exists() or damage(path, key):
            return None
        manifest = read_manifest(path)
        # A kill may have come between the manifest and this.
        letting_go.tidy(path, lean=bool(manifest.let_go))
        if manifest.let_go:
            self._makers[path] = call
        if manifest.differs:
            self._others.add(path)
        return Entry(path, key, cached=True, meta=manifest.meta)

    def _finish(self, work: Work, told: dict[str, Any]) -> None:
        rows = work.meter.rows()
        manifest = {
            **told,
            "files": {name: dataclasses.asdict(f) for name, f in files(work.path).items()},
            "meta": work.meta,
            "ledger": [dataclasses.asdict(row) for row in rows],
            "influbench": version("influbench"),
        }
        write_manifest(work.path, manifest)
        letting_go.tidy(work.path)
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
        remove(path)
    for left in path.glob(".*"):
        if left.is_file():
            left.unlink()
