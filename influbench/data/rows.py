"""Rows of users' files and hub data sets, each with the place that an error message names.

Files are read by ``formats``, so that a bad line can be named; hub data sets, folders of files and
saved data sets by ``datasets``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from influbench.data import formats
from influbench.errors import UserError

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILE_ENDINGS = (*formats.READERS, *formats.PACKED, ".txt", ".zip", ".xlsx")

_HUB_FILES = {"tatsu-lab/alpaca_eval": "alpaca_eval_gpt4_baseline.json"}
"""Hub data sets that are a loading script, which ``datasets`` refuses: the file to take instead."""


@dataclass(frozen=True)
class Row:
    """One row of a file, before it is known to be any kind of record."""

    where: str
    """File and line, or data set and row number, for error messages."""
    position: int
    """Counted from 0."""
    stem: str
    """Name of the file or data set without folder and ending, for default ids."""
    fields: dict[str, Any]

    def refuse(self, expected: str, got: str, advice: str) -> UserError:
        """The error for a row that is not what it should be."""
        return UserError(f"{self.where}: expected {expected}, got {got}: {advice}")


def read_rows(source: str | Path, limit: int | None = None) -> list[Row]:
    """The first ``limit`` rows of a local file or folder, or of a hub data set's ``train`` split.

    Raises:
        UserError: there is no such file or data set, or a line is malformed.
    """
    path = Path(source)
    if source == "":  # pathlib's name for this folder
        raise UserError("expected a file, a folder or a hub name like owner/name, got an empty one")
    if path.is_dir():
        return list(islice(_dataset_rows(str(source), path.name, folder=path), limit))
    if not path.exists():
        name = str(source)
        if not _HUB_NAME.fullmatch(name) or name.lower().endswith(_FILE_ENDINGS):
            raise UserError(
                f"expected a file at {path} or a hub name like owner/name: there is no such file, "
                "check the path"
            )
        return list(islice(_hub_rows(name), limit))
    found = list(islice(_file_rows(path), limit))
    if not found:
        raise UserError(f"{path}: expected at least one row, got an empty file: check the path")
    return found


def _file_rows(path: Path) -> Iterator[Row]:
    for position, (place, fields) in enumerate(formats.read(path)):
        row = Row(f"{path}{place}", position, formats.stem(path), fields)
        if not isinstance(fields, dict):
            shown = f"{type(fields).__name__} {str(fields)[:60]!r}"
            raise row.refuse("an object with named fields", shown, "fix it")
        for name, told in fields.items():
            _check_text(row, name, told)
        yield row


def _check_text(row: Row, name: str, told: object) -> None:
    """An escape may stand for half of a character, which no file can hold."""
    try:
        name.encode()
        if isinstance(told, str):
            told.encode()
        elif isinstance(told, list | dict):
            json.dumps(told, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        raise row.refuse(
            f"valid Unicode in {name!r}", f"half a character at {error.start}", "fix the escape"
        ) from error


def _hub_rows(name: str) -> Iterator[Row]:
    stem = name.rsplit("/", 1)[-1]
    if name not in _HUB_FILES:
        yield from _dataset_rows(name, stem)
        return
    from huggingface_hub import hf_hub_download

    try:
        path = hf_hub_download(name, _HUB_FILES[name], repo_type="dataset")
    except (OSError, ValueError) as error:
        raise _unreachable(name, error) from error
    for row in _file_rows(Path(path)):
        yield Row(f"{name} row {row.position}", row.position, stem, row.fields)


def _dataset_rows(name: str, stem: str, *, folder: Path | None = None) -> Iterator[Row]:
    import datasets
    from datasets.exceptions import DatasetsError

    saved = folder is not None and any(
        (folder / mark).exists() for mark in ("state.json", "dataset_dict.json")
    )
    try:
        found: Any = (
            datasets.load_from_disk(name) if saved else datasets.load_dataset(name, split="train")
        )
    except (OSError, ValueError, DatasetsError) as error:
        raise _unreachable(name, error) from error
    if isinstance(found, datasets.DatasetDict):
        found = _split(name, {str(split): data for split, data in found.items()})
    for position, fields in enumerate(found):
        yield Row(f"{name} row {position}", position, stem, dict(fields))


def _split(name: str, splits: Mapping[str, Any]) -> Any:
    if len(splits) != 1 and "train" not in splits:
        raise UserError(
            f"{name}: expected a data set with a split 'train', got {', '.join(sorted(splits))}: "
            f"give the folder of one of them, such as {name}/{sorted(splits)[0]}"
        )
    return splits["train"] if "train" in splits else next(iter(splits.values()))


def _unreachable(name: str, error: Exception) -> UserError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
    return UserError(
        f"expected to read '{name}' with the datasets library, got: {reason}: check the name and "
        "the connection, or give a local file"
    )
