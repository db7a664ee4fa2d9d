"""Scores as files that travel: ``F`` has one score a line, ``F.meta.json`` where they are from.

A line holds ``id``, ``score``, and where there are such ``stderr``, ``group``, ``per_reference``.
The name of the method is the file's stem: two settings of one estimator are two files.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt

from influbench.data.examples import row_id
from influbench.data.records import LedgerRow, Score
from influbench.data.rows import Row, read_rows
from influbench.errors import UserError
from influbench.estimator import Scale
from influbench.files import write_bytes
from influbench.results import outputs
from influbench.results.reading import OddError, Open, load, typed

FORMAT = 1
"""Version of the layout of ``F.meta.json``."""


@dataclass(frozen=True, kw_only=True)
class ScoreFile:
    """The scores of one method, where they are from and what they cost."""

    name: str
    scores: Sequence[Score]
    """In the candidates' order."""
    groups: Mapping[str, str]
    """Candidate id to group, without those that have none."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """``estimator``, ``options``, ``scale``, ``seed``, ``student``, digests, ``diagnostics``; empty
    for a file without ``F.meta.json``."""
    ledger: Sequence[LedgerRow] = ()


class _Set(Open):
    digest: str | None = None
    rows: str | None = None
    count: NonNegativeInt | None = None


class _Student(Open):
    name: str = "?"
    digest: str | None = None


class _Diagnostics(Open):
    noise_floor: NonNegativeFloat | None = None
    parameter_share: float = 0.0
    budget_used: float = 0.0
    reference_loss_before: float = 0.0
    reference_loss_null: float = 0.0


class _File(Open):
    """The layout of ``F.meta.json``: what readers ask of it."""

    format: Literal[1]
    ledger: list[LedgerRow]
    estimator: str = ""
    options: dict[str, Any] = Field(default={})
    scale: Scale = "rank"
    needs: list[str] = Field(default=[])
    student: _Student = _Student()
    candidates: _Set = _Set()
    reference: _Set = _Set()
    warmup: _Set | None = None
    diagnostics: _Diagnostics = _Diagnostics()


def meta_path(path: Path) -> Path:
    """Where the facts about the scores in ``path`` are."""
    return path.with_name(path.name + ".meta.json")


def claim(path: Path, *, inputs: Iterable[object] = ()) -> Path:
    """``path`` and its ``.meta.json`` as files that may be written; see :func:`outputs.claim`.

    Raises:
        UserError: they may not.
    """
    inputs = list(inputs)
    target = outputs.claim(path, _ours, inputs=inputs)
    outputs.claim(meta_path(target), _our_facts, inputs=inputs)
    return target


def _ours(path: Path) -> bool:
    return meta_path(path).is_file() and _our_facts(meta_path(path)) and _scored(path)


def _scored(path: Path) -> bool:
    return outputs.begins(path, '{"id": ')


def _our_facts(path: Path) -> bool:
    return outputs.begins(path, '{\n "format": ')


def write(path: Path, file: ScoreFile, *, per_reference: bool = False) -> None:
    """Writes ``path`` and its ``.meta.json``.

    Args:
        path: the file of scores.
        file: what to write; its ``name`` is not, since the file's own name says it.
        per_reference: one number a reference with each score: for the oracle's ceiling and for
            exact errors of differences.

    Raises:
        UserError: there is a file that influbench did not write.
    """
    path = claim(path)
    lines = [_line(score, file.groups.get(score.id, ""), per_reference) for score in file.scores]
    write_bytes(path, "".join(line + "\n" for line in lines).encode())
    facts = {
        "format": FORMAT,
        **file.about,
        "ledger": [dataclasses.asdict(row) for row in file.ledger],
    }
    text = json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False)
    write_bytes(meta_path(path), (text + "\n").encode())


def read(path: Path) -> ScoreFile:
    """The scores in ``path`` with what is known about them.

    Raises:
        UserError: no such file, a line without a finite score, an id that comes twice, or a
            ``.meta.json`` of another layout.
    """
    rows = read_rows(path)
    scores = [_score(row) for row in rows]
    seen: dict[str, Row] = {}
    for row, score in zip(rows, scores, strict=True):
        if score.id in seen:
            again = f"'{score.id}' again (first at {seen[score.id].where})"
            raise row.refuse("every id once", again, "score the candidates again")
        seen[score.id] = row
    groups = {
        s.id: str(r.fields["group"])
        for s, r in zip(scores, rows, strict=True)
        if r.fields.get("group")
    }
    about, ledger = _facts(meta_path(path))
    return ScoreFile(name=path.stem, scores=scores, groups=groups, about=about, ledger=ledger)


def _line(score: Score, group: str, per_reference: bool) -> str:
    fields: dict[str, Any] = {"id": score.id, "score": score.value}
    if score.stderr is not None:
        fields["stderr"] = score.stderr
    if group:
        fields["group"] = group
    if per_reference and score.per_reference is not None:
        fields["per_reference"] = score.per_reference
    return json.dumps(fields, ensure_ascii=False, allow_nan=False)


def _score(row: Row) -> Score:
    each = row.fields.get("per_reference")
    if each is not None and not isinstance(each, list):
        raise row.refuse("a list in 'per_reference'", type(each).__name__, "score them again")
    error = row.fields.get("stderr")
    return Score(
        id=row_id(row, "id") if row.fields.get("id") not in (None, "") else _refuse_id(row),
        value=_number(row, "score", row.fields.get("score")),
        stderr=None if error is None else _number(row, "stderr", error),
        per_reference=None
        if each is None
        else tuple(_number(row, "per_reference", value) for value in each),
    )


def _refuse_id(row: Row) -> str:
    raise row.refuse(
        "an 'id' in every line", f"fields {sorted(row.fields)}", "add the candidate's id"
    )


def _number(row: Row, name: str, value: Any) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not abs(value) < float("inf"):
        advice = "write the file with 'influbench score --out', or one number a candidate"
        raise row.refuse(f"a finite number in '{name}'", repr(value), advice)
    return float(value)


def _facts(path: Path) -> tuple[dict[str, Any], list[LedgerRow]]:
    if not path.is_file():
        return {}, []
    try:
        data, about = load(path)
        ledger = typed(_File, data).ledger
    except OddError as error:
        raise UserError(
            f"{path} holds no facts about scores ({error}): score again with --out, or remove the "
            "file to go on without"
        ) from error
    return {name: told for name, told in about.items() if name not in ("format", "ledger")}, ledger
