"""The kept result of a stage: a folder, and the manifest that says what belongs in it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from influbench.data.records import LedgerRow, ModelRef
from influbench.files import digest, read_jsonl, write_bytes

R = TypeVar("R")

MANIFEST, LEDGER = "manifest.json", "ledger.jsonl"
SEAL = "seal"
"""What a manifest calls the digest of all the rest of it; older entries have none."""
UNFINISHED = ("chunks", "scratch")
"""Folders that go when the entry is whole."""
BEFORE = 16
"""Bytes of the digests that older entries have."""


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """One file of an entry."""

    size: int
    mtime_ns: int | None = None
    """influbench 0.2 wrote no times down."""
    digest: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What is read back of a manifest; there is more in it, for people."""

    key: str
    stage: str
    inputs: tuple[str, ...]
    files: dict[str, FileFacts]
    meta: dict[str, Any]
    ledger: tuple[LedgerRow, ...]
    let_go: dict[str, FileFacts] = field(default_factory=dict)
    """Weights that are not there any more, and count as if they were (``letting_go``)."""
    differs: bool = False
    """Whether weights that were made again are not the first ones."""


_MANIFEST = TypeAdapter(Manifest)


@dataclass(frozen=True)
class Entry:
    """The kept result of a stage."""

    path: Path
    key: str
    cached: bool
    """Whether it was there before this call."""
    meta: dict[str, Any]

    def records(self, name: str, kind: type[R]) -> list[R]:
        """The records that the stage wrote under ``name``."""
        return read_jsonl(self.path / f"{name}.jsonl", kind)

    def model(self, name: str) -> ModelRef:
        """The model that the stage saved in the folder ``name``."""
        path = self.path / name
        assert path.is_dir(), f"the stage made no folder {name} in {self.path}"
        return ModelRef(path=str(path), digest=f"{self.key}/{name}")

    def ledger(self) -> list[LedgerRow]:
        """What making it cost, whichever process did."""
        return list(read_manifest(self.path).ledger)


def read_manifest(path: Path) -> Manifest:
    """The manifest of the entry in ``path``.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is damaged, or something else.
    """
    return _MANIFEST.validate_json((path / MANIFEST).read_bytes())


def write_manifest(path: Path, told: Mapping[str, Any]) -> None:
    """Writes the manifest of the entry in ``path``, sealed: no number in it changes unseen."""
    text = json.dumps(dict(told), ensure_ascii=False, allow_nan=False)
    plain = json.loads(text)  # as who reads it has it
    plain[SEAL] = _seal(plain)
    write_bytes(path / MANIFEST, json.dumps(plain, indent=1, ensure_ascii=False).encode())


def _seal(told: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in told.items() if key != SEAL}
    return digest(json.dumps(rest, sort_keys=True))


def files(path: Path) -> dict[str, FileFacts]:
    """Size, time and digest of every file of the entry in ``path``, by its name relative to it."""
    found = sorted(p for p in path.rglob("*") if p.is_file())
    inner = [(p.relative_to(path), p) for p in found]
    return {
        name.as_posix(): FileFacts(
            size=p.stat().st_size, mtime_ns=p.stat().st_mtime_ns, digest=digest_as(p)
        )
        for name, p in inner
        if name.parts[0] not in (*UNFINISHED, MANIFEST, LEDGER)
    }


def damage(path: Path, key: str | None = None, *, thorough: bool = False) -> list[str]:
    """What is wrong with the entry in ``path``, a line each; nothing if it is as it was written.

    Args:
        path: the entry's folder.
        key: the key that its manifest must have.
        thorough: read the files in folders (models), too; else those are read whose time of
            change is not the one written down, and a disk that rots is left to ``store verify``.
    """
    try:
        manifest = read_manifest(path)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError):
        return [f"{path / MANIFEST}: not a manifest"]
    if key not in (None, manifest.key):
        return [f"{path / MANIFEST}: of another entry ({manifest.key}, expected {key})"]
    told = json.loads((path / MANIFEST).read_bytes())
    if told.get(SEAL, "") not in ("", _seal(told)):
        return [f"{path / MANIFEST}: other content than was written"]
    problems: list[str] = []
    for name, fact in manifest.files.items():
        file = path / name
        if not file.is_file():
            problems.append(f"{file}: missing")
        elif file.stat().st_size != fact.size:
            problems.append(f"{file}: {file.stat().st_size} bytes, expected {fact.size}")
        elif (thorough or "/" not in name or _touched(file, fact)) and (
            digest_as(file, fact.digest) != fact.digest
        ):
            problems.append(f"{file}: other content than was written")
    return problems


def remove(path: Path) -> None:
    """Deletes an entry; of one that somebody moved and linked to, the link."""
    manifest = path / MANIFEST
    if path.is_symlink():
        path.unlink()
        return
    if not manifest.is_dir():
        manifest.unlink(missing_ok=True)  # first: killed in here, it must not look whole
    shutil.rmtree(path)


def _touched(file: Path, fact: FileFacts) -> bool:
    """Whether a file was written to, or copied, since its manifest was."""
    now = file.stat().st_mtime_ns
    return fact.mtime_ns not in (None, now)


def digest_as(path: Path, known: str = "") -> str:
    """Digest of a file, of the kind of one that is ``known``.

    SHA-256, for which processors have instructions: a student with its moments is 1.6 GB. BLAKE2b,
    half as long, is what older entries have.
    """
    before = len(known) == 2 * BEFORE
    kind = (lambda: hashlib.blake2b(digest_size=BEFORE)) if before else hashlib.sha256
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()
