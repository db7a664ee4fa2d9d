"""Rows of users' files and hub data sets, each with the place that an error message names.

JSONL, JSON, CSV and Parquet are read here, so that a bad line can be named; everything else goes
through ``datasets``.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from influbench.errors import UserError

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILE_ENDINGS = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".arrow", ".txt", ".gz", ".zst")

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
    readers = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        return list(islice(_dataset_rows(str(path), path.stem, file=path), limit))
    try:
        found = list(islice(reader(path), limit))
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: expected UTF-8 text, got byte {error.object[error.start]:#04x} at offset "
            f"{error.start}: save the file as UTF-8"
        ) from error
    if not found:
        raise UserError(f"{path}: expected at least one row, got an empty file: check the path")
    return found


def _row(path: Path, line: int, position: int, fields: Any) -> Row:
    row = Row(f"{path}:{line}", position, path.stem, fields)
    if not isinstance(fields, dict):
        raise row.refuse(
            "an object with named fields", f"{type(fields).__name__} {str(fields)[:60]!r}", "fix it"
        )
    return row


def _jsonl(path: Path) -> Iterator[Row]:
    position = 0
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                fields = json.loads(line)
            except ValueError as error:
                raise UserError(
                    f"{path}:{number}: expected one JSON object, got {line.strip()[:80]!r} "
                    f"({error}): fix or remove the line"
                ) from error
            yield _row(path, number, position, fields)
            position += 1


def _json(path: Path) -> Iterator[Row]:
    text = path.read_text(encoding="utf-8-sig")
    if not text.lstrip().startswith("["):
        yield from _jsonl(path)
        return
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}:{error.lineno}: expected a JSON list of objects, got "
            f"{text[error.pos : error.pos + 40]!r} ({error.msg}): fix the file"
        ) from error
    # Decoded a second time, item by item, only to know the line that each one starts on.
    decoder, between = json.JSONDecoder(), re.compile(r"[\s,]*")
    at, line, position = text.index("[") + 1, 1, 0
    counted = 0
    while True:
        start = between.match(text, at).end()  # type: ignore[union-attr]
        if text[start] == "]":
            return
        line += text.count("\n", counted, start)
        counted = start
        fields, at = decoder.raw_decode(text, start)
        yield _row(path, line, position, fields)
        position += 1


def _csv(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        line, position = 2, 0
        try:
            for fields in reader:
                row = _row(path, line, position, fields)
                if None in fields or None in fields.values():
                    raise row.refuse(
                        f"{len(reader.fieldnames or ())} columns as in the header",
                        "more" if None in fields else "fewer",
                        "quote cells that hold commas or line breaks",
                    )
                yield row
                line, position = reader.line_num + 1, position + 1
        except csv.Error as error:
            raise UserError(
                f"{path}:{reader.line_num}: expected comma-separated values ({error}): "
                "check the quotes"
            ) from error


def _parquet(path: Path) -> Iterator[Row]:
    from pyarrow import ArrowInvalid, parquet

    try:
        rows = parquet.read_table(path).to_pylist()
    except ArrowInvalid as error:
        raise UserError(f"{path}: expected a Parquet file ({error}): write it again") from error
    for position, fields in enumerate(rows):
        yield Row(f"{path} row {position}", position, path.stem, fields)


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
    for row in _json(Path(path)):
        yield Row(f"{name} row {row.position}", row.position, stem, row.fields)


def _dataset_rows(
    name: str, stem: str, *, folder: Path | None = None, file: Path | None = None
) -> Iterator[Row]:
    import datasets
    from datasets.exceptions import DatasetsError

    try:
        if folder is not None and (folder / "state.json").exists():
            found = datasets.load_from_disk(str(folder))
        elif file is not None:
            found = datasets.load_dataset(str(file.parent), data_files=file.name, split="train")
        else:
            found = datasets.load_dataset(name, split="train")
    except (OSError, ValueError, DatasetsError) as error:
        raise _unreachable(name, error) from error
    for position, fields in enumerate(found):
        yield Row(f"{name} row {position}", position, stem, dict(fields))


def _unreachable(name: str, error: Exception) -> UserError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
    return UserError(
        f"expected to read '{name}' with the datasets library, got: {reason}: check the name and "
        "the connection, or give a local file"
    )
