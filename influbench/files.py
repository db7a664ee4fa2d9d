"""Files written whole or not at all, records as lines of JSON, and digests of content."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter

from influbench.errors import UserError

R = TypeVar("R")

MOST = 100_000
"""Values of a YAML text, those that an anchor repeats counted each time."""


def to_line(record: Any) -> str:
    """One record as one line of JSON, keys in field order, without the line break."""
    row: dict[str, Any] = {}
    for told in dataclasses.fields(record):
        value = getattr(record, told.name)
        if "seldom" not in told.metadata or value != told.default:
            row[told.name] = value
    # Not dataclasses.asdict, which copies all that a record holds: half the time of a digest.
    return json.dumps(row, ensure_ascii=False, allow_nan=False, default=_inner)


def _inner(value: Any) -> dict[str, Any]:
    """The fields of a record inside a record."""
    return {told.name: getattr(value, told.name) for told in dataclasses.fields(value)}


def from_dict(kind: type[R], row: Mapping[str, Any]) -> R:
    """Builds a record of type ``kind``; lists become tuples, since records are hashable.

    Raises:
        ValueError: it is no mapping, or a field is missing, unknown or of a wrong type.
    """
    checks, fields = _checks(kind)
    record = checks(row)
    if not row.keys() <= fields:
        raise ValueError(f"{kind.__name__} has no field {', '.join(sorted({*row} - fields))}")
    return record


@functools.cache
def _checks(kind: type[Any]) -> tuple[Callable[[Any], Any], frozenset[str]]:
    """What makes a record of a mapping, and the names of its fields."""
    names = frozenset(told.name for told in dataclasses.fields(kind))
    return TypeAdapter(kind).validate_python, names


def write_bytes(path: Path, data: bytes) -> None:
    """Writes ``path`` whole or not at all: a temporary file in the same folder, synced, renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # mkstemp makes 0600; results are meant to be shared  # noqa: PTH101
        os.replace(name, path)  # noqa: PTH105
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # a full disk does not say where
            error.filename = str(path)
        raise


def write_jsonl(path: Path, records: Iterable[object]) -> None:
    """Writes one record a line, whole or not at all."""
    write_bytes(path, "".join(to_line(r) + "\n" for r in records).encode())


def read_jsonl(path: Path, kind: type[R]) -> list[R]:
    """Reads records of one type.

    Raises:
        UserError: the file is missing, or a line is not such a record.
    """
    if not path.is_file():
        raise UserError(f"expected a file of {kind.__name__} records at {path}: there is none")
    records: list[R] = []
    for number, line in enumerate(_lines(path), 1):
        try:
            records.append(from_dict(kind, json.loads(line)))
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{path}:{number}: expected a {kind.__name__} record, got {line[:80]!r} ({error})"
            ) from error
    return records


def _lines(path: Path) -> list[str]:
    # Not str.splitlines: it also breaks at U+2028 and its like, which JSON leaves inside a text.
    return [line for line in path.read_text(encoding="utf-8").split("\n") if line]


NOT_YAML = (
    yaml.YAMLError, ValueError, RecursionError, AttributeError, LookupError, TypeError,
)  # fmt: skip
"""What its parser raises: ``2020-13-45`` is no date, ``!!bool x`` is no key of a table of its own,
and a thousand brackets are too deep."""


class _Once(yaml.SafeLoader):
    """A key stands once in a table: of two the parser would take the last, without a word."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            told = key.tag, key.value
            if told in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"found the key '{key.value}' twice", problem_mark=key.start_mark
                )
            seen.add(told)
        return node


def yaml_value(text: str) -> Any:
    """The value of a YAML text, if it can be written as JSON.

    Raises:
        yaml.YAMLError: it is no YAML, a key stands twice, or it is too large.
        ValueError: a date or number that there is not, or half of a character.
        Exception: what else PyYAML raises (``NOT_YAML``).
    """
    value = yaml.load(text, Loader=_Once)
    if _size(value, {}) > MOST:
        raise yaml.YAMLError(f"more than {MOST:,} values, or a value inside itself (its anchors)")
    json.dumps(value, ensure_ascii=False, default=str, skipkeys=True).encode()
    return value


def _size(value: Any, known: dict[int, float]) -> float:
    """How many values there are in one; one that is inside itself has no end."""
    if not isinstance(value, dict | list | tuple | set):
        return 1
    if id(value) not in known:
        known[id(value)] = float("inf")
        parts = [*value.keys(), *value.values()] if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(value)]


def digest(value: Sequence[object] | str | bytes) -> str:
    """A content digest (hex, 32 characters) of records, text or bytes."""
    state = hashlib.blake2b(digest_size=16)
    if isinstance(value, bytes):
        state.update(value)
    elif isinstance(value, str):
        state.update(value.encode())
    else:
        for record in value:
            state.update(to_line(record).encode() + b"\n")
    return state.hexdigest()
