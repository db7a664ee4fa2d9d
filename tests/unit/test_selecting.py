"""The best rows of a user's file, in the user's own format."""

import bz2
import csv
import gzip
import io
import json
import lzma
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from influbench.data import load_examples, selecting
from influbench.data.rows import read_rows
from influbench.errors import UserError

ROWS = [
    {
        "id": f"r{n}",
        "instruction": f'Say "{n}", twice;',
        "output": f"á{n}\nnext\u2028",
        "k": f"{n}",
    }
    for n in range(6)
]
PLACES = [1, 4, 5]


def separated(delimiter: str, end: str = "\n") -> bytes:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(ROWS[0]), delimiter=delimiter, lineterminator=end)
    writer.writeheader()
    writer.writerows(ROWS)
    return out.getvalue().encode()


def lines() -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in ROWS)


def packed(name: str) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, name) as out:
        out.write(lines())
    return sink.getvalue().to_pybytes()


def table() -> pyarrow.Table:
    made = pyarrow.Table.from_pylist([{**row, "n": n, "f": n / 7} for n, row in enumerate(ROWS)])
    return made.replace_schema_metadata({"whose": "mine"})


def as_parquet() -> bytes:
    sink = io.BytesIO()
    parquet.write_table(table(), sink)
    return sink.getvalue()


def as_arrow(kind: str) -> bytes:
    sink = io.BytesIO()
    new = pyarrow.ipc.new_file if kind == "file" else pyarrow.ipc.new_stream
    with new(sink, table().schema) as writer:
        writer.write_table(table())
    return sink.getvalue()


FILES = {
    "a.jsonl": lines(),
    "bom.jsonl": b"\xef\xbb\xbf" + lines(),
    "gaps.jsonl": b"\n" + lines().replace(b"\n{", b"\n\n{"),
    "lines.json": lines(),
    "list.json": json.dumps(ROWS, indent=2).encode(),
    "a.csv": separated(","),
    "excel.csv": separated(";", "\r\n"),
    "a.tsv": separated("\t"),
    "a.parquet": as_parquet(),
    "a.arrow": as_arrow("file"),
    "stream.arrow": as_arrow("stream"),
    "a.jsonl.gz": gzip.compress(lines()),
    "a.csv.bz2": bz2.compress(separated(",")),
    "a.json.xz": lzma.compress(json.dumps(ROWS).encode()),
    "a.jsonl.zst": packed("zstd"),
    "noending": lines(),
}


@pytest.mark.parametrize("name", FILES)
def test_the_rows_come_back_in_the_form_that_they_had(tmp_path: Path, name: str):
    source, out = tmp_path / name, tmp_path / f"best.{name.partition('.')[2]}".rstrip(".")
    source.write_bytes(FILES[name])
    selecting.check_kind(str(source), out)
    selecting.write(str(source), PLACES, out)
    before, after = read_rows(source), read_rows(out)
    assert [row.fields for row in after] == [before[place].fields for place in PLACES]
    assert [e.id for e in load_examples(out)] == ["r1", "r4", "r5"]


def test_lines_of_json_are_copied_to_the_byte(tmp_path: Path):
    odd = b'{"id":"a",  "instruction": "x", "response": "y", "w": 1.10}\n'
    (tmp_path / "a.jsonl").write_bytes(lines() + odd.rstrip())
    selecting.write(str(tmp_path / "a.jsonl"), [0, 6], tmp_path / "b.jsonl")
    assert (tmp_path / "b.jsonl").read_bytes() == lines().splitlines(keepends=True)[0] + odd


@pytest.mark.parametrize("ends", ["\r", "\r\n", "\n", "\r\n\r\n", "\n\r"])
def test_lines_end_where_the_reader_ends_them(tmp_path: Path, ends: str):
    text = lines().decode().split("\n")
    (tmp_path / "a.jsonl").write_bytes("\n".join([ends.join(text[:3]), *text[3:]]).encode())
    selecting.write(str(tmp_path / "a.jsonl"), PLACES, tmp_path / "b.jsonl")
    before, after = read_rows(tmp_path / "a.jsonl"), read_rows(tmp_path / "b.jsonl")
    assert [row.fields for row in after] == [before[place].fields for place in PLACES]


def test_parquet_keeps_types_and_metadata(tmp_path: Path):
    (tmp_path / "a.parquet").write_bytes(as_parquet())
    selecting.write(str(tmp_path / "a.parquet"), PLACES, tmp_path / "b.parquet")
    made = parquet.read_table(tmp_path / "b.parquet")
    assert made.schema.equals(table().schema, check_metadata=True)
    assert made.column("n").to_pylist() == PLACES


def test_a_semicolon_file_stays_one(tmp_path: Path):
    (tmp_path / "a.csv").write_bytes(separated(";", "\r\n"))
    selecting.write(str(tmp_path / "a.csv"), [0], tmp_path / "b.csv")
    assert (tmp_path / "b.csv").read_bytes().startswith(b"id;instruction;output;k\r\n")


def test_a_saved_data_set_becomes_lines(tmp_path: Path):
    import datasets

    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    selecting.check_kind(str(tmp_path / "saved"), tmp_path / "b.jsonl")
    selecting.write(str(tmp_path / "saved"), PLACES, tmp_path / "b.jsonl")
    assert [row.fields for row in read_rows(tmp_path / "b.jsonl")] == [ROWS[p] for p in PLACES]
    with pytest.raises(UserError, match=r"written as '\.jsonl'"):
        selecting.check_kind(str(tmp_path / "saved"), tmp_path / "b.csv")


def test_another_ending_is_refused(tmp_path: Path):
    (tmp_path / "a.jsonl.gz").write_bytes(FILES["a.jsonl.gz"])
    with pytest.raises(UserError, match=r"ends in '\.jsonl\.gz'.*got '\.jsonl'"):
        selecting.check_kind(str(tmp_path / "a.jsonl.gz"), tmp_path / "b.jsonl")


@pytest.mark.parametrize(
    ("text", "count"), [("3", 3), ("30%", 3), ("2.5 %", 1), ("100%", 10), ("99", 10), (".1%", 1)]
)
def test_so_many_or_such_a_share(text: str, count: int):
    assert selecting.share(text)(10) == count


@pytest.mark.parametrize("text", ["0", "-3", "0%", "130%", "all", "", "1.5", "30%%"])
def test_what_is_no_number_or_share_is_refused(text: str):
    with pytest.raises(UserError, match="expected a number of candidates, or a share"):
        selecting.share(text)


def test_the_best_come_in_their_order_and_the_first_of_equals():
    assert selecting.best([0.1, 3.0, 2.0, 3.0, 2.0], 3) == [1, 2, 3]
