"""Files of rows in the forms that users have them: JSON, lines of JSON, separated values, Parquet.

Compressed ones are known by their first bytes, whatever they are called; the form is known by the
name's ending, and where that says nothing, by the first character.
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
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from influbench.errors import UserError

Numbered = Iterator[tuple[str, Any]]
"""The place of a row, such as ``:12``, and what stands there."""

PACKED = (".gz", ".bz2", ".xz", ".zst", ".lz4")
_ZSTD, _LZ4 = b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18"


def stem(path: Path) -> str:
    """The file's name without the endings that say its form."""
    return Path(path.stem).stem if path.suffix.lower() in PACKED else path.stem


def read(path: Path) -> Numbered:
    """The rows of a file, one after the other, not yet known to be objects.

    Raises:
        UserError: the file's form is unknown, or it is damaged; names the line.
    """
    inner = path.with_suffix("") if path.suffix.lower() in PACKED else path
    reader = READERS.get(inner.suffix.lower())
    try:
        with path.open("rb") as file, unpacked(file) as data:
            found = reader or _guessed(data.peek(4096)[:4096])
            if found is None:
                raise UserError(
                    f"{path}: expected rows in a file of kind {', '.join(sorted(READERS))} "
                    f"(perhaps with {', '.join(PACKED)}), got '{path.suffix}': convert it"
                )
            yield from found(path, data)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: expected UTF-8 text, got byte {error.object[error.start]:#04x} at offset "
            f"{error.start}: save the file as UTF-8"
        ) from error
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise UserError(
            f"{path}: expected a whole compressed file, got a damaged one ({error}): copy or "
            "download it again"
        ) from error


def unpacked(file: io.BufferedReader) -> io.BufferedReader:
    """What a file holds: it is compressed if its first bytes say so."""
    head = file.peek(8)[:8]
    packed: IO[bytes]
    if head.startswith(b"\x1f\x8b"):
        packed = cast("IO[bytes]", gzip.GzipFile(fileobj=file))
    elif head.startswith(b"BZh"):
        packed = bz2.BZ2File(file)
    elif head.startswith(b"\xfd7zXZ\x00"):
        packed = lzma.LZMAFile(file)  # noqa: SIM115  # closed with the reader around it
    elif head.startswith((_ZSTD, _LZ4)):
        import pyarrow

        kind = "zstd" if head.startswith(_ZSTD) else "lz4"
        packed = pyarrow.CompressedInputStream(pyarrow.PythonFile(file, mode="r"), kind)
        try:
            packed = io.BytesIO(packed.read())
        except OSError as error:
            raise EOFError(str(error)) from error
    else:
        return file
    return io.BufferedReader(cast("io.RawIOBase", packed))


def _guessed(head: bytes) -> Callable[[Path, io.BufferedReader], Numbered] | None:
    if head.startswith(b"PAR1"):
        return _parquet
    return _json if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[") else None


def _text(data: io.BufferedReader, **settings: Any) -> io.TextIOWrapper:
    return io.TextIOWrapper(data, encoding="utf-8-sig", **settings)


def _json(path: Path, data: io.BufferedReader) -> Numbered:
    head = data.peek(4096)[:4096].removeprefix(b"\xef\xbb\xbf").lstrip()
    yield from _list(path, data) if head.startswith(b"[") else _lines(path, data)


def _lines(path: Path, data: io.BufferedReader) -> Numbered:
    for number, line in enumerate(_text(data), 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{path}:{number}: expected one JSON object, got {line.strip()[:80]!r} "
                f"({error}): fix or remove the line"
            ) from error
        yield f":{number}", fields


def _list(path: Path, data: io.BufferedReader) -> Numbered:
    text = _text(data).read()
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}:{error.lineno}: expected a JSON list of objects, got "
            f"{text[error.pos : error.pos + 40]!r} ({error.msg}): fix the file"
        ) from error
    except RecursionError as error:
        raise UserError(
            f"{path}: expected a JSON list of objects, got what is none ({error}): fix the file"
        ) from error
    # Decoded a second time, item by item, only to know the line that each one starts on.
    decoder, between = json.JSONDecoder(), re.compile(r"[\s,]*")
    at, line, counted = text.index("[") + 1, 1, 0
    while True:
        gap = between.match(text, at)
        assert gap is not None  # it matches nothing at all
        start = gap.end()
        if text[start] == "]":
            return
        line += text.count("\n", counted, start)
        counted = start
        fields, at = decoder.raw_decode(text, start)
        yield f":{line}", fields


def _csv(path: Path, data: io.BufferedReader) -> Numbered:
    yield from _separated(path, data, delimiter_of(data.peek(65536)[:65536]))


def delimiter_of(head: bytes) -> str:
    """What separates the values of a ``.csv`` file that begins so."""
    # Where the header holds no comma, the separator is what a spreadsheet of another country takes.
    header = head.split(b"\n", 1)[0]
    counts = {mark: header.count(mark.encode()) for mark in (";", "\t")}
    other = max(counts, key=lambda mark: counts[mark])
    return other if b"," not in header and counts[other] else ","


def _tsv(path: Path, data: io.BufferedReader) -> Numbered:
    yield from _separated(path, data, "\t")


def _separated(path: Path, data: io.BufferedReader, delimiter: str) -> Numbered:
    before = csv.field_size_limit(sys.maxsize)  # a long conversation is one cell
    reader = csv.DictReader(_text(data, newline=""), strict=True, delimiter=delimiter)
    try:
        names = list(reader.fieldnames or ())
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"{path}:1: expected every column once, got '{twice[0]}' twice")
        line = reader.line_num + 1
        for fields in reader:
            if None in fields or None in fields.values():
                got = "more" if None in fields else "fewer"
                raise UserError(
                    f"{path}:{line}: expected {len(names)} columns as in the header, got {got}: "
                    "quote cells that hold separators or line breaks"
                )
            yield f":{line}", fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{path}:{reader.line_num}: expected values separated by {delimiter!r} ({error}): "
            "check the quotes"
        ) from error
    finally:
        csv.field_size_limit(before)


def _parquet(path: Path, data: io.BufferedReader) -> Numbered:
    from pyarrow import ArrowInvalid, parquet

    try:
        rows = parquet.read_table(io.BytesIO(data.read())).to_pylist()
    except ArrowInvalid as error:
        raise UserError(f"{path}: expected a Parquet file ({error}): write it again") from error
    for position, fields in enumerate(rows):
        yield f" row {position}", fields


def _arrow(path: Path, data: io.BufferedReader) -> Numbered:
    import pyarrow

    content = data.read()
    try:
        opened = (
            pyarrow.ipc.open_file(content)
            if content.startswith(b"ARROW1")
            else pyarrow.ipc.open_stream(content)
        )
        rows = opened.read_all().to_pylist()
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: expected an Arrow file ({error}): write it again") from error
    for position, fields in enumerate(rows):
        yield f" row {position}", fields


READERS: dict[str, Callable[[Path, io.BufferedReader], Numbered]] = {
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
