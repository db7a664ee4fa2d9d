"""JSON files of results as they are read: every field typed, and one line about the first odd one.

Strict: a text is no number, and no number is NaN. People edit these files by hand and merge them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, ValidationInfo
from pydantic_core import ErrorDetails, from_json

from influbench.errors import UserError

M = TypeVar("M", bound=BaseModel)

SHOWN = 60
"""Characters of an odd value in a message."""


class OddError(ValueError):
    """What is odd about a file, in one line that does not name the file."""


class Told(BaseModel):
    """Base of what such a file holds."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)


class Open(Told):
    """A part that holds more than readers ask for."""

    model_config = ConfigDict(extra="ignore")


def load(path: Path) -> tuple[bytes, dict[str, Any]]:
    """The bytes of a file and the JSON object that they are.

    Raises:
        OddError: they are no such thing.
        UserError: the file cannot be read.
    """
    try:
        data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise UserError(
            f"{path}: expected a JSON file, cannot read it: {error.strerror}; let it be read, or "
            "move it away"
        ) from error
    try:
        raw = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise OddError(str(error)) from error
    if not isinstance(raw, dict):
        raise OddError(f"expected a JSON object, got {_short(raw)}")
    return data, cast("dict[str, Any]", raw)


def typed(kind: type[M], data: bytes) -> M:
    """A file's bytes as a ``kind``.

    Raises:
        OddError: which field, what was expected, what came.
    """
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise OddError(_line(error.errors()[0])) from error


def table_of(kind: type[Any]) -> BeforeValidator:
    """Makes mappings of a table ``{"columns": […], "data": [[…], …]}`` of records.

    Fields of the record that the file says once, before its tables (``study``, ``run``), are added.
    """
    known = {told.name for told in dataclasses.fields(kind)}

    def rows(table: object, info: ValidationInfo) -> list[dict[str, Any]]:
        match table:
            case {"columns": [*columns], "data": [*data], **rest} if not rest:
                odd = [name for name in columns if not isinstance(name, str) or name not in known]
                if odd or len(set(columns)) < len(columns):
                    told = f"'{odd[0]}'" if odd else "one twice"
                    raise ValueError(f"expected columns of {sorted(known)}, each once, got {told}")
            case _:
                raise ValueError(f"expected a table of 'columns' and 'data', got {_short(table)}")
        once = {name: told for name, told in info.data.items() if name in known}
        return [{**once, **_row(columns, row, at)} for at, row in enumerate(data)]

    return BeforeValidator(rows)


def _row(columns: Sequence[str], row: object, at: int) -> dict[str, Any]:
    values: list[Any] = cast("list[Any]", row) if isinstance(row, list) else []
    if len(values) != len(columns):
        raise ValueError(f"row {at}: expected a list of {len(columns)} values, got {_short(row)}")
    return dict(zip(columns, values, strict=True))


def _line(found: ErrorDetails) -> str:
    place = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in found["loc"])
    words = re.sub(r"^Input should be (a valid )?", "expected ", found["msg"])
    words = words.removeprefix("Value error, ")
    if found["type"] == "missing":
        return f"{place[1:]}: expected this field, there is none"
    if found["type"] == "extra_forbidden":
        return f"{place[1:]}: there is no such field"
    came = "" if found["type"] == "value_error" else f", got {_short(found['input'])}"
    return f"{place[1:]}: {words}{came}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
