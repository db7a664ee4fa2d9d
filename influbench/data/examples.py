"""Users' files of instruction-response pairs as examples, checked row by row.

A row has ``instruction`` and ``response`` (Alpaca's ``output`` is accepted for it), optionally
``input`` (or Dolly's ``context``, appended to the instruction after a blank line), ``id`` and
``group``; or a chat of any number of turns (:mod:`influbench.data.conversations`). A system prompt
and earlier turns may stand in columns of their own (:mod:`influbench.data.beside`). A field that is
null is a field that is not there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from influbench.data import doubled
from influbench.data.conversations import Chat, checked_text, empty, shown
from influbench.data.records import Example
from influbench.data.rows import Row, read_rows

Source = str | Path | Iterable[Any]
"""A path or hub name, or rows of any kind (see :func:`as_examples`)."""


def load_examples(
    source: str | Path, limit: int | None = None, *, reference: bool = False
) -> list[Example]:
    """The first ``limit`` instruction-response pairs of a file or hub data set.

    Rows without an id get one from the file's name and their position, like ``alpaca-00012``.

    Raises:
        UserError: no such file, or a row that is not a pair; names file, line and what to do.
    """
    return examples(read_rows(source, limit), reference=reference)


def as_examples(
    source: Source, limit: int | None = None, name: str = "rows", *, reference: bool = False
) -> list[Example]:
    """The first ``limit`` examples of a source of any kind.

    Args:
        source: a path or hub name; or rows: dictionaries with the fields of a file, a pandas
            ``DataFrame``, a ``datasets.Dataset``, or examples.
        limit: None = all.
        name: what rows without an id are called after, and error messages name.
        reference: see :func:`examples`.

    Raises:
        UserError: see :func:`load_examples`; or a row is neither an example nor a dictionary.
    """
    if isinstance(source, (str, Path)):
        return load_examples(source, limit, reference=reference)
    given: Any = source
    if hasattr(given, "to_dict") and hasattr(given, "columns"):  # a DataFrame: iterates columns
        given = given.to_dict("records")
    found: list[Example] = []
    seen: dict[str, str] = {}
    for position, item in enumerate(islice(given, limit)):
        row = Row(f"{name} row {position}", position, name, {})
        if isinstance(item, Example):
            claim_id(item.id, row, seen)
            found.append(item)
            continue
        if not isinstance(item, Mapping):
            raise row.refuse("a dictionary with instruction and response", shown(item), "change it")
        fields = {str(k): _plain(v) for k, v in item.items()}
        row = replace(row, fields=fields)
        found += examples([row], reference=reference)
        claim_id(found[-1].id, row, seen)
    return found


def examples(
    rows: Iterable[Row], *, separator: str = "\n\n", reference: bool = False
) -> list[Example]:
    """The rows as examples.

    Args:
        rows: of a file or data set.
        separator: stands between ``instruction`` and ``input``.
        reference: keep what an objective other than likelihood is made of: ``rejected``, ``weight``
            and ``reward``; elsewhere such columns mean something else.

    Raises:
        UserError: a field is missing, empty or of the wrong type, holds what no turn can, or an
            id comes twice.
    """
    found: list[Example] = []
    seen: dict[str, str] = {}
    for row in rows:
        if reference:
            row = _chosen(row)

        def pair(row: Row) -> Chat:
            return (), instruction(row, separator=separator), response(row)

        earlier, asked, answer = doubled.example(row, pair)
        example = Example(
            id=row_id(row, "id"),
            instruction=asked,
            response=answer,
            group=_label(row, "group"),
            earlier=earlier,
            finished=_finished(row),
        )
        if reference:
            example = replace(example, **_aims(row))
            if example.rejected:
                doubled.check_answer(row, "chosen", answer)
        claim_id(example.id, row, seen)
        found.append(example)
    return found


def _chosen(row: Row) -> Row:
    """Preference data: the ``chosen`` one of two answers to a prompt is the completion."""
    if row.fields.get("completion") is None and row.fields.get("prompt") is not None:
        return replace(row, fields={**row.fields, "completion": row.fields.get("chosen")})
    return row


def _aims(row: Row) -> dict[str, Any]:
    """What a reference is for, as far as the row says."""
    found: dict[str, Any] = {}
    if row.fields.get("rejected") is not None:
        found["rejected"] = checked_text(row, "rejected", row.fields["rejected"])
    for name, least in (("weight", 0.0), ("reward", -math.inf)):
        value = row.fields.get(name)
        if value is None:
            continue
        number = not isinstance(value, bool) and isinstance(value, (int, float))
        if not number or not math.isfinite(value) or value < least:
            wanted = "a number" if least else "a number from 0"
            raise row.refuse(f"{wanted} in '{name}'", shown(value), "change it")
        found[name] = float(value)
    return found


def instruction(row: Row, *, separator: str = "\n\n") -> str:
    """``instruction``, with ``input`` after it where there is one; Dolly calls it ``context``."""
    text = _text(row, _named(row, "instruction", "question"))
    extras = [_extra(row, name) for name in ("input", "context")]
    if all(extras) and extras[0] != extras[1]:
        raise row.refuse("text in 'input' or in 'context'", "others in both", "keep one of them")
    extra = extras[0] or extras[1]
    return text + separator + extra if extra else text


def _extra(row: Row, name: str) -> str:
    value = row.fields.get(name)
    if name == "context" and empty(value):
        return ""
    if value is not None and not isinstance(value, str):
        raise row.refuse(f"text in '{name}'", shown(value), "make it text or leave it out")
    return value if value and value.strip() else ""


def response(row: Row) -> str:
    """``response``, or ``output`` or a question's ``answer`` where there is no such field."""
    answer = "answer" if row.fields.get("question") is not None else "output"
    return _text(row, _named(row, "response", answer))


def _named(row: Row, name: str, other: str) -> str:
    """The field's name, or its other name where the row has only that."""
    absent = row.fields.get(name) is None
    lacking = other if absent and (other == "output" or row.fields.get(other) is not None) else name
    return doubled.named(row, name, other) or lacking


def row_id(row: Row, *names: str) -> str:
    """The row's own id, under the first of ``names`` that it has; else made from its position."""
    given = next((_label(row, name) for name in names if _label(row, name)), "")
    return given or f"{row.stem}-{row.position:05d}"


def claim_id(claimed: str, row: Row, seen: dict[str, str]) -> None:
    """Notes that ``row`` has the id ``claimed``.

    Raises:
        UserError: an earlier row has it.
    """
    if claimed in seen:
        raise row.refuse(
            "every id once", f"'{claimed}' again (first at {seen[claimed]})", "make the ids unique"
        )
    seen[claimed] = row.where


def _label(row: Row, name: str) -> str:
    value = row.fields.get(name)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise row.refuse(f"text or a whole number in '{name}'", shown(value), "change it")
    return str(value)


def _finished(row: Row) -> bool:
    value = row.fields.get("finished")
    if value is not None and not isinstance(value, bool):
        raise row.refuse("true or false in 'finished'", shown(value), "change it")
    return value is not False


def _text(row: Row, name: str) -> str:
    if row.fields.get(name) is None:
        wanted = "'response' (or 'output')" if name == "output" else f"'{name}'"
        raise row.refuse(
            f"a field {wanted}", f"fields {sorted(row.fields)}", "rename or add the field"
        )
    return checked_text(row, name, row.fields[name])


def _plain(value: Any) -> Any:
    """A value of a table in memory as a file's rows have it: null for NaN, lists for arrays."""
    if hasattr(value, "tolist"):  # a column of lists that pandas read is one of arrays
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value if (value != value) is False else None  # pandas' NA equals nothing, either
