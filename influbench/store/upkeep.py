"""What a store holds, whether it is whole, and what can go: ``influbench store ls|verify|gc``.

An entry is kept while a run of a study is made of it (``receipts``) and that run's result file is
there or the run is not finished, or while an entry that is kept was made from its model. What is
left belongs to nothing that is known: an earlier version of a stage, settings that were given up,
or ``influbench score`` and ``evaluate``, whose numbers are in files of their own.

Of an entry that finished runs alone keep the weights can go too (``letting_go``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from influbench.errors import UserError
from influbench.store import letting_go, receipts
from influbench.store.entry import LEDGER, MANIFEST, Manifest, damage, read_manifest
from influbench.store.entry import remove as delete
from influbench.store.presence import Presence, present
from influbench.store.receipts import Receipt

NAME = re.compile(r"-[0-9a-f]{16}$")
"""How the name of an entry's folder ends."""
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
    lean: bool = False
    """Whether its weights were let go."""
    weights: int = 0
    """Bytes of weights that can go: all that keeps it are finished runs."""


def listing(store: Path) -> list[Kept]:
    """All entries, by name."""
    manifests = {path: _manifest(path) for path in _entries(store)}
    known = list(receipts.all_of(store))
    users = _users(store, manifests, known)
    needed = _users(store, manifests, [receipt for receipt in known if receipt.state != "done"])
    out: list[Kept] = []
    for path, manifest in manifests.items():
        ledger = manifest.ledger if manifest else ()
        finished = manifest is not None and path.name in users and path.name not in needed
        out.append(
            Kept(
                path=path,
                stage=manifest.stage if manifest else path.name.split("-")[0],
                bytes=sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
                seconds=sum(row.seconds for row in ledger),
                money=sum(row.money for row in ledger),
                whole=manifest is not None,
                users=tuple(users.get(path.name, ())),
                lean=manifest is not None and bool(manifest.let_go),
                weights=letting_go.held(path, manifest) if finished and manifest else 0,
            )
        )
    return out


def verify(store: Path) -> Iterator[tuple[Path, list[str]]]:
    """Every whole entry with what is wrong in it, all of its files read."""
    for path in _entries(store):
        if (path / MANIFEST).exists():
            yield path, damage(path, thorough=True)


def remove(store: Path) -> list[Kept]:
    """Deletes the entries that nothing keeps, and returns them.

    Raises:
        UserError: another process uses the store, or it cannot be written.
    """
    with _present(store).alone():
        gone = [entry for entry in listing(store) if not entry.users]
        for entry in gone:
            delete(entry.path)
    return gone


def let_go(store: Path) -> list[Kept]:
    """Deletes the weights of entries that finished runs alone keep, and returns those entries.

    Raises:
        UserError: another process uses the store, or it cannot be written.
    """
    with _present(store).alone():
        gone = [entry for entry in listing(store) if entry.weights]
        for entry in gone:
            letting_go.let_go(entry.path)
    return gone


def _present(store: Path) -> Presence:
    here = present(store)
    if here is None:
        raise UserError(f"the store {store} cannot be written, so nothing can be deleted from it")
    return here


def _entries(store: Path) -> list[Path]:
    return sorted(
        path
        for path in store.glob("[!.]*")
        if NAME.search(path.name)  # not any folder that a user has: gc deletes
        and path.is_dir()
        and ((path / MANIFEST).exists() or (path / LEDGER).exists())
    )


def _manifest(path: Path) -> Manifest | None:
    try:
        return read_manifest(path)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError):
        return None


def _users(
    store: Path, manifests: Mapping[Path, Manifest | None], known: Iterable[Receipt]
) -> dict[str, list[str]]:
    """What keeps each entry of these runs, by folder."""
    by_key: dict[str, list[Path]] = {}
    for path, manifest in manifests.items():
        if manifest is not None:
            by_key.setdefault(manifest.key, []).append(path)
    users: dict[str, list[str]] = {}
    todo: list[tuple[str, str]] = []
    for receipt in known:
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
        manifest = manifests.get(store / name)
        for told in manifest.inputs if manifest else ():
            if told.startswith(MODEL):
                key = told.removeprefix(MODEL).split("/")[0]
                todo += [(maker.name, name) for maker in by_key.get(key, ())]
    return users
