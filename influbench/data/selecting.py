"""Some rows of a user's file as a file of the same kind: same columns, same order, same values.

Lines of JSON are copied byte for byte, Parquet and Arrow rows keep their types and the table's
metadata, separated values their delimiter. What ends in ``.gz`` and the like is compressed again.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from influbench.data import formats
from influbench.data.rows import read_rows
from influbench.errors import UserError
from influbench.files import write_bytes

_TOP = re.compile(r"(\d+)|(\d+(?:\.\d+)?|\.\d+)\s*%")
_LINES = ".jsonl"
"""The form of rows that come from no single file."""


def share(text: str) -> Callable[[int], int]:
    """How many of so many ``N`` or ``P%`` are: at least one, at most all.

    Raises:
        UserError: neither a whole number above 0 nor a percentage above 0 and up to 100.
    """
    found = _TOP.fullmatch(text.strip())
    if found is not None and found[1] is not None and int(found[1]) > 0:
        wanted = int(found[1])
        return lambda count: min(count, wanted)
    if found is not None and found[2] is not None and 0 < float(found[2]) <= 100:
        part = float(found[2]) / 100
        return lambda count: max(1, round(part * count))
    raise UserError(f"--top {text}: expected a number of candidates, or a share such as 30%")


def best(values: Sequence[float], count: int) -> list[int]:
    """Places of the ``count`` largest values, in the order of the values; the first of equals."""
    order = sorted(range(len(values)), key=lambda place: -values[place])
    return sorted(order[:count])


def check_kind(source: str, out: Path) -> None:
    """Refuses a file whose ending says another form than the rows of ``source`` have.

    Raises:
        UserError: it does.
    """
    wanted = _ending(Path(source)) if Path(source).is_file() else _LINES
    if _ending(out) != wanted:
        raise UserError(
            f"--out-data {out}: expected a name that ends in '{wanted}', as the candidates do; "
            f"got '{_ending(out)}'"
            if Path(source).is_file()
            else f"--out-data {out}: rows of a data set are written as '{wanted}'; name it so"
        )


def write(source: str, places: Sequence[int], out: Path) -> None:
    """Writes the rows of ``source`` at ``places``, counted from 0, whole or not at all.

    Args:
        source: the file, folder or hub name that the candidates were read from.
        places: ascending.
        out: of the same ending, see :func:`check_kind`.
    """
    path = Path(source)
    if not path.is_file():
        rows = read_rows(source, places[-1] + 1 if places else 0)
        lines = [json.dumps(rows[p].fields, ensure_ascii=False, default=str) for p in places]
        write_bytes(out, "".join(line + "\n" for line in lines).encode())
        return
    with path.open("rb") as file, formats.unpacked(file) as data:
        content = data.read()
    inner = path.with_suffix("") if path.suffix.lower() in formats.PACKED else path
    made = _WRITERS.get(inner.suffix.lower(), _guessed)(content, places)
    write_bytes(out, _packed(made, path.suffix.lower()))


def _ending(path: Path) -> str:
    suffixes = path.suffixes[-2:] if path.suffix.lower() in formats.PACKED else path.suffixes[-1:]
    return "".join(suffixes).lower()


def _json(content: bytes, places: Sequence[int]) -> bytes:
    text = content.decode("utf-8-sig")
    if not text.lstrip().startswith("["):
        # Lines end where they do for whoever reads the rows, a lone carriage return among them.
        lines = [line for line in io.StringIO(text, newline=None) if line.strip()]
        return "".join(lines[place].rstrip("\r\n") + "\n" for place in places).encode()
    rows = json.loads(text)
    kept = [rows[place] for place in places]
    return (json.dumps(kept, ensure_ascii=False, indent=1) + "\n").encode()


def _csv(content: bytes, places: Sequence[int]) -> bytes:
    return _separated(content, places, formats.delimiter_of(content[:65536]))


def _tsv(content: bytes, places: Sequence[int]) -> bytes:
    return _separated(content, places, "\t")


def _separated(content: bytes, places: Iterable[int], delimiter: str) -> bytes:
    before = csv.field_size_limit(sys.maxsize)  # a long conversation is one cell
    try:
        text = io.StringIO(content.decode("utf-8-sig"), newline="")
        rows = [row for row in csv.reader(text, delimiter=delimiter) if row]
    finally:
        csv.field_size_limit(before)
    ends = "\r\n" if b"\r\n" in content.split(b"\n", 1)[0] + b"\n" else "\n"
    made = io.StringIO(newline="")
    writer = csv.writer(made, delimiter=delimiter, lineterminator=ends)
    writer.writerows([rows[0], *(rows[1 + place] for place in places)])
    return made.getvalue().encode()


def _parquet(content: bytes, places: Sequence[int]) -> bytes:
    from pyarrow import parquet

    made = io.BytesIO()
    parquet.write_table(parquet.read_table(io.BytesIO(content)).take(list(places)), made)
    return made.getvalue()


def _arrow(content: bytes, places: Sequence[int]) -> bytes:
    import pyarrow

    whole = content.startswith(b"ARROW1")
    opened = pyarrow.ipc.open_file(content) if whole else pyarrow.ipc.open_stream(content)
    table = opened.read_all().take(list(places))
    made = io.BytesIO()
    new: Any = pyarrow.ipc.new_file if whole else pyarrow.ipc.new_stream
    with new(made, table.schema) as writer:
        writer.write_table(table)
    return made.getvalue()


def _guessed(content: bytes, places: Sequence[int]) -> bytes:
    return (_parquet if content.startswith(b"PAR1") else _json)(content, places)


def _packed(content: bytes, suffix: str) -> bytes:
    simple: dict[str, Callable[[bytes], bytes]] = {
        ".gz": lambda data: gzip.compress(data, mtime=0),
        ".bz2": bz2.compress,
        ".xz": lzma.compress,
    }
    if suffix in simple:
        return simple[suffix](content)
    if suffix not in (".zst", ".lz4"):
        return content
    import pyarrow

    made = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(made, {".zst": "zstd", ".lz4": "lz4"}[suffix]) as file:
        file.write(content)
    return made.getvalue().to_pybytes()


_WRITERS: dict[str, Callable[[bytes, Sequence[int]], bytes]] = {
    ".jsonl": _json,
    ".ndjson": _json,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _tsv,
    ".tab": _tsv,
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".feather": _arrow,
}
