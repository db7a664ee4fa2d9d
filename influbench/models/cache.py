"""Models made on this machine, once: folders in the user's cache.

A folder appears by one rename, holds a manifest written last, and is checked and redone when it is
damaged.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from influbench.files import write_bytes
from influbench.models.quiet import quiet

MANIFEST = "manifest.json"


def cache_dir() -> Path:
    """Where converted models are kept: ``$INFLUBENCH_CACHE``, else ``~/.cache/influbench``."""
    given = os.environ.get("INFLUBENCH_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "influbench"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_of(name: str, identity: str) -> Path:
    """Where the model ``name`` with the digest ``identity`` is, or will be."""
    return cache_dir() / "models" / f"{re.sub(r'[^A-Za-z0-9._=-]+', '-', name)}-{identity[:12]}"


def made(name: str, identity: str, make: Callable[[Path], None]) -> Path:
    """The folder of a model, which ``make`` fills when it is not there or damaged.

    A second process waits for the first one's work.
    """
    folder = folder_of(name, identity)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{folder.name}.lock"):
        if not intact(folder):
            _build(folder, make)
    return folder


def intact(folder: Path, *, full: bool = False) -> bool:
    """Whether a cached folder holds what its manifest says: sizes, with ``full`` every byte."""
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        return all(
            (folder / name).stat().st_size == entry["size"]
            and (not full or file_sha256(folder / name) == entry["sha256"])
            for name, entry in files.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # whatever stands there
        return False


def _build(folder: Path, make: Callable[[Path], None]) -> None:
    """Fills ``folder`` by ``make``: elsewhere, manifest last, then renamed. Needs the lock."""
    for left in folder.parent.glob(f".{folder.name}.tmp*"):
        shutil.rmtree(left)  # of a process that was killed: nobody else holds the lock
    work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.tmp"))
    try:
        with quiet():
            make(work)
        for path in work.iterdir():
            path.chmod(0o644)  # safetensors writes 0600; a cache may be shared
        files = {
            path.name: {"size": path.stat().st_size, "sha256": file_sha256(path)}
            for path in sorted(work.iterdir())
        }
        write_bytes(work / MANIFEST, json.dumps({"files": files}, indent=1).encode())
        work.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
