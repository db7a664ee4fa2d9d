"""What a store holds, whether it is whole, and what can go: ``influbench store ls|verify|gc``.

An entry is kept while a run of a study is made of it (``receipts``) and that run's result file is
there or the run is not finished, or while an entry that is kept was made from its model. What is
left belongs to nothing that is known: an earlier version of a stage, settings that were given up,
or ``influbench score`` and ``evaluate``, whose numbers are in files of their own.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from influbench.store import receipts
from influbench.store.entry import LEDGER, MANIFEST, damage, read_manifest

MODEL = "model:"
"""How a manifest names an input that is a model: ``model:<key>/<folder>``."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """One entry of a store."""

    path: Path
    stage: str
    bytes: int
    seconds: float
    """What making it cost, and would cost again."""
    money: float
    whole: bool
    """Whether it is finished; else a later attempt goes on from it."""
    users: tuple[str, ...]
    """What keeps it: runs as ``study/run``, entries as folders; nothing = it can go."""


def listing(store: Path) -> list[Kept]:
    """All entries, by name."""
    manifests = {path: _manifest(path) for path in _entries(store)}
    users = _users(store, manifests)
    out: list[Kept] = []
    for path, manifest in manifests.items():
        ledger = manifest.get("ledger", ())
        out.append(
            Kept(
                path=path,
                stage=str(manifest.get("stage", path.name.split("-")[0])),
                bytes=sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
                seconds=sum(row["seconds"] for row in ledger),
                money=sum(row["money"] for row in ledger),
                whole=bool(manifest),
                users=tuple(users.get(path.name, ())),
            )
        )
    return out


def verify(store: Path) -> Iterator[tuple[Path, list[str]]]:
    """Every whole entry with what is wrong in it, all of its files read."""
    for path in _entries(store):
        if (path / MANIFEST).exists():
            yield path, damage(path, thorough=True)


def remove(store: Path, entries: Sequence[Kept]) -> list[Kept]:
    """Deletes entries, but those that a process works on; returns those deleted."""
    gone: list[Kept] = []
    for entry in entries:
        locks = store / ".locks"
        locks.mkdir(exist_ok=True)
        lock = FileLock(locks / f"{entry.path.name}.lock")
        try:
            with lock.acquire(timeout=0):
                (entry.path / MANIFEST).unlink(missing_ok=True)  # first: it must not look whole
                shutil.rmtree(entry.path)
                gone.append(entry)
        except Timeout:
            continue
    return gone


def _entries(store: Path) -> list[Path]:
    return sorted(
        path
        for path in store.glob("[!.]*")
        if path.is_dir() and ((path / MANIFEST).exists() or (path / LEDGER).exists())
    )


def _manifest(path: Path) -> dict[str, Any]:
    try:
        return read_manifest(path)
    except (FileNotFoundError, ValueError):
        return {}


def _users(store: Path, manifests: Mapping[Path, Mapping[str, Any]]) -> dict[str, list[str]]:
    """What keeps each entry, by folder."""
    by_key: dict[str, list[Path]] = {}
    for path, manifest in manifests.items():
        by_key.setdefault(str(manifest.get("key")), []).append(path)
    users: dict[str, list[str]] = {}
    todo: list[tuple[str, str]] = []
    for receipt in receipts.all_of(store):
        if receipt.state == "done" and not Path(receipt.result).is_file():
            continue  # its numbers were thrown away
        todo += [(entry, f"{receipt.study}/{receipt.run}") for entry in receipt.entries]
    while todo:
        name, user = todo.pop()
        seen = name in users
        if user not in users.setdefault(name, []):
            users[name].append(user)
        if seen:
            continue
        for told in manifests.get(store / name, {}).get("inputs", ()):
            if str(told).startswith(MODEL):
                key = str(told).removeprefix(MODEL).split("/")[0]
                todo += [(maker.name, name) for maker in by_key.get(key, ())]
    return users
