"""Weights that were let go: an entry without them counts as made, until something needs them.

Records are small and models are not: half a gigabyte a student of 135M, three times that with its
moments. What was let go stands in the manifest, which is written before the first file is deleted:
killed in between, the files that are left are used by nobody, and the next time goes on. Made
again, a model lies in the folder ``again`` of its entry until all of it is there, and the manifest
is written when it has moved: killed in between, it is made once more.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from influbench.data.records import LedgerRow
from influbench.errors import UserError
from influbench.store.entry import (
    MANIFEST,
    UNFINISHED,
    Manifest,
    digest_as,
    files,
    read_manifest,
    write_manifest,
)

AGAIN = "again"
"""Folder of an entry in which its weights are made again."""
DIFFERS = (
    "weights that were let go and made again are not the same (made on another device, or with "
    "other versions of libraries): numbers kept from before are of the first ones"
)
WEIGHTS = ("*/*.safetensors", "*/optimizer.pt")


def weights(names: Iterable[str]) -> list[str]:
    """Those files of an entry that hold weights or moments."""
    return [n for n in names if any(PurePosixPath(n).match(kind) for kind in WEIGHTS)]


def held(path: Path, manifest: Manifest) -> int:
    """Bytes that letting go of the weights of an entry frees."""
    left = [path / name for name in weights([*manifest.files, *manifest.let_go])]
    left += (path / AGAIN).rglob("*")
    return sum(file.stat().st_size for file in left if file.is_file())


def let_go(path: Path) -> None:
    """Deletes the weights of a whole entry that nobody uses meanwhile."""
    told = _read(path)
    for name in weights(told["files"]):
        told.setdefault("let_go", {})[name] = told["files"].pop(name)
    write_manifest(path, told)  # first: killed in here, it must not look as if it had them
    for name in told["let_go"]:
        (path / name).unlink(missing_ok=True)
    shutil.rmtree(path / AGAIN, ignore_errors=True)


def put_back(path: Path, spent: Sequence[LedgerRow]) -> None:
    """Takes into an entry the models that were made again in its folder ``again``.

    Records, meta and ledger stay what they were: keys and results are made of those, and a run's
    price is that of making each thing once, or arms would be compared by when a disk was cleared.
    What it cost to make the weights again stands apart, for people.
    """
    told, again = _read(path), path / AGAIN
    lost = told["let_go"]
    folders = {PurePosixPath(name).parent for name in lost}
    made = {n: f for n, f in files(again).items() if PurePosixPath(n).parent in folders}
    same = made.keys() >= lost.keys() and all(
        digest_as(again / name, fact["digest"]) == fact["digest"] for name, fact in lost.items()
    )
    for name in made:
        (again / name).replace(path / name)
    told["files"] |= {name: dataclasses.asdict(fact) for name, fact in made.items()}
    told["differs"] = told.get("differs", False) or not same
    told["made_again"] = [*told.get("made_again", ()), *map(dataclasses.asdict, spent)]
    told["let_go"] = {}
    write_manifest(path, told)
    shutil.rmtree(again, ignore_errors=True)


def tidy(path: Path, *, lean: bool = False) -> None:
    """Removes what a kill left in a whole entry; in a lean one weights may be being made again."""
    for name in UNFINISHED if lean else (*UNFINISHED, AGAIN):
        shutil.rmtree(path / name, ignore_errors=True)


def owner(folder: Path) -> tuple[Path, Manifest] | None:
    """The entry that a model's folder is in; None for a model of another place."""
    for path in folder.absolute().parents[:2]:  # <entry>/student, <entry>/kept/12
        try:
            return path, read_manifest(path)
        except (OSError, ValueError):
            continue
    return None


def refuse(folder: Path) -> None:
    """Raises UserError where the weights of a model's folder were let go."""
    found = owner(folder)
    if found and found[1].let_go:
        raise UserError(
            f"{folder}: its weights were let go (influbench store gc --weights) and this command "
            f"does not know what made them: delete {found[0]} and give the run that it is of again"
        )


def _read(path: Path) -> dict[str, Any]:
    return json.loads((path / MANIFEST).read_bytes())
