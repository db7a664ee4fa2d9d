"""One run on disk: ``results/<study>/<run>.json``, one record a line. Used through ``results``.

Format 2 holds the interval of a number in its row. Format 1, which is still read, had two more rows
for it, ``<metric>:low`` and ``<metric>:high``.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from influbench.data.records import LedgerRow, Outcome, ResultRow, Score
from influbench.errors import UserError
from influbench.files import write_bytes
from influbench.results import outputs, reading
from influbench.results.layout import RunFile
from influbench.results.reading import OddError

FORMAT = 2
"""Version of the file layout."""
READ = (1, 2)
MANIFEST = "study.json"
"""Beside the runs of a study: see ``manifest``."""

_NAME = re.compile(r"[A-Za-z0-9][\w.,=+-]*")


class DamagedError(UserError):
    """A result file that is cut short or holds something else; running again replaces it."""


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """All that is kept of one run."""

    config: Mapping[str, Any]
    """The resolved configuration."""
    provenance: Mapping[str, Any]
    rows: Sequence[ResultRow]
    ledger: Sequence[LedgerRow] = ()
    outcomes: Mapping[str, Sequence[Outcome]] = field(default_factory=dict)
    """Per-item numbers of the last round, by estimator."""
    others: Mapping[str, Mapping[str, Sequence[Outcome]]] = field(default_factory=dict)
    """The same of students that the candidates were not scored for, by their names."""
    scores: Mapping[str, Sequence[Score]] = field(default_factory=dict)
    """Scores by estimator; values per reference item stay in the store."""
    groups: Mapping[str, str] = field(default_factory=dict)
    """Candidate id to group, so that agreement can be computed again."""
    notes: Sequence[str] = ()
    """What a reader must know: ``leaky``, a judge that only exercises the plumbing …"""


def claim(root: Path, study: str, run_id: str) -> Path:
    """Where a result will stand, and its folder; asked before anything is computed.

    Raises:
        UserError: a name that is no file name, a folder that cannot be written, or a file that is
            no result.
    """
    check_names(study, run_id)
    path = root / study / f"{run_id}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"results cannot be written to {path.parent}: {error.strerror}") from error
    return outputs.claim(path, is_result, option="results in")


def check_names(study: str, run_id: str) -> None:
    """Refuses a name of a study or run that is no file name.

    Raises:
        UserError: it is none.
    """
    for what, name in (("study", study), ("run", run_id)):
        if not _NAME.fullmatch(name) or (what == "run" and f"{name}.json" == MANIFEST):
            raise UserError(
                f"expected a {what} name of letters, digits and . _ , = + -, got '{name}'"
            )


def is_result(path: Path) -> bool:
    """Whether a file is, or was meant to be, one that :func:`write` wrote: it may be cut short."""
    head = '{\n "format": '
    return outputs.begins(path, head[: path.stat().st_size])


def write(root: Path, study: str, run_id: str, result: RunResult) -> Path:
    """Writes ``root/study/run_id.json``, whole or not at all, and returns its path.

    Rows whose value is NaN are left out.

    Raises:
        UserError: a name that is no file name, or a file that is no result.
    """
    path = claim(root, study, run_id)
    rows = [row for row in result.rows if not math.isnan(row.value)]
    strays = {(row.study, row.run) for row in rows} - {(study, run_id)}
    alone = () if result.others else ("student",)
    assert not strays, f"rows of {strays} in the result of {(study, run_id)}"
    parts = {
        "format": FORMAT,
        "study": study,
        "run": run_id,
        "config": dict(result.config),
        "notes": list(result.notes),
        "rows": _table(ResultRow, rows, drop=("study", "run", *alone)),
        "ledger": _table(LedgerRow, result.ledger),
        "outcomes": _outcomes(result.outcomes),
        **({} if alone else {"others": {k: _outcomes(v) for k, v in result.others.items()}}),
        "scores": {
            k: _table(Score, v, drop=("per_reference",)) for k, v in sorted(result.scores.items())
        },
        "groups": dict(sorted(result.groups.items())),
        "provenance": dict(result.provenance),
    }
    write_bytes(path, (_dump(parts) + "\n").encode())
    return path


def write_if_new(root: Path, study: str, run_id: str, result: RunResult) -> Path:
    """As :func:`write`, but a file that holds this very result stays as it is.

    Its date and commit stay too: a number keeps the origin that it was first measured at. A damaged
    file is replaced.

    Raises:
        UserError: a name that is no file name, or the file is of a later version of influbench.
    """
    path = claim(root, study, run_id)
    if path.is_file():
        try:
            before = read(path)[2]
        except DamagedError:
            return write(root, study, run_id, result)
        with tempfile.TemporaryDirectory() as folder:  # compared as read back: tuples become lists
            bare = dataclasses.replace(result, provenance={})
            again = read(write(Path(folder), study, run_id, bare))[2]
        if dataclasses.replace(again, provenance=before.provenance) == before:
            return path
    return write(root, study, run_id, result)


def read(path: Path) -> tuple[str, str, RunResult]:
    """Study name, run id and content of one file.

    Raises:
        DamagedError: the file is cut short, holds something odd, or is no result file at all.
        UserError: it is of a later version, or was copied under another name.
    """
    try:
        data, raw = reading.load(path)
        if isinstance(version := raw.get("format"), int) and version not in READ:
            raise UserError(
                f"{path}: expected a result file of format {' or '.join(map(str, READ))}, got "
                f"{version}: read it with the version of influbench that wrote it, or move it away"
            )
        told = reading.typed(RunFile, data)
    except OddError as error:
        raise _damaged(path, error) from error
    if told.run != path.stem:
        raise UserError(
            f"{path}: run '{told.run}' in a file of another name; rename it to {told.run}.json, or "
            "remove the copy"
        )
    result = RunResult(
        config=raw["config"],
        provenance=raw["provenance"],
        rows=_with_bounds(told.rows) if told.format == 1 else told.rows,
        ledger=told.ledger,
        outcomes=told.outcomes,
        others=told.others,
        scores=told.scores,
        groups=told.groups,
        notes=told.notes,
    )
    return told.study, told.run, result


def _damaged(path: Path, error: OddError) -> DamagedError:
    if is_result(path):
        return DamagedError(
            f"{path} is damaged or cut short ({error}): the same run again writes it anew from the "
            "store, or delete it to go on without"
        )
    return DamagedError(f"{path} is no result of influbench ({error}): move it to another folder")


def _with_bounds(rows: Sequence[ResultRow]) -> list[ResultRow]:
    """Rows of format 1 with the bounds that stand in rows of their own put beside their number."""
    bounds = {
        (dataclasses.replace(row, metric="", value=0.0, stderr=None, n=0), row.metric): row.value
        for row in rows
    }

    def bound(row: ResultRow, end: str) -> float | None:
        where = dataclasses.replace(row, metric="", value=0.0, stderr=None, n=0)
        return bounds.get((where, f"{row.metric}:{end}"))

    return [
        dataclasses.replace(row, low=bound(row, "low"), high=bound(row, "high"))
        for row in rows
        if not row.metric.endswith((":low", ":high"))
    ]


def columns_of(kind: type[Any], drop: Sequence[str] = ()) -> list[str]:
    """Field names of a record type, in order."""
    return [f.name for f in dataclasses.fields(kind) if f.name not in drop]


def _table(kind: type[Any], records: Iterable[object], drop: Sequence[str] = ()) -> dict[str, Any]:
    """Field names once, then one list a record: half the bytes of one object a record."""
    columns = columns_of(kind, drop)
    return {"columns": columns, "data": [[_plain(getattr(r, c)) for c in columns] for r in records]}


def _outcomes(found: Mapping[str, Sequence[Outcome]]) -> dict[str, Any]:
    return {name: _table(Outcome, each) for name, each in sorted(found.items())}


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _dump(value: Any, indent: str = "") -> str:
    """JSON with one record a line, so that a change in a result is a readable diff."""
    if isinstance(value, dict) and value:
        inner = indent + " "
        lines = [f"{inner}{json.dumps(k)}: {_dump(v, inner)}" for k, v in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    if isinstance(value, list) and value and isinstance(value[0], list):
        inner = indent + " "
        lines = [inner + _flat(item) for item in value]
        return "[\n" + ",\n".join(lines) + f"\n{indent}]"
    return _flat(value)


def _flat(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
