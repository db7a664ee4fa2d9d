"""Files that a user would call ordinary are read; what is not what it should be is refused."""

import bz2
import csv
import gzip
import io
import json
import lzma
from pathlib import Path

import pytest

from influbench.data import load_examples
from influbench.data.records import Question
from influbench.data.rows import read_rows
from influbench.errors import UserError
from influbench.evaluation.recorded import read_outputs, read_preferences

ROWS = [
    {"id": f"r{n}", "instruction": f'Say "{n}", twice.', "response": f"línea {n}\nnext"}
    for n in range(3)
]
WANTED = [(row["id"], row["instruction"], row["response"]) for row in ROWS]


def lines(rows=ROWS) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def separated(delimiter: str) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(ROWS[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return out.getvalue().encode()


def zstd(data: bytes) -> bytes:
    import pyarrow

    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as out:
        out.write(data)
    return sink.getvalue().to_pybytes()


def parquet() -> bytes:
    import pyarrow
    from pyarrow import parquet as format_

    sink = io.BytesIO()
    format_.write_table(pyarrow.Table.from_pylist(ROWS), sink)
    return sink.getvalue()


def read(path: str | Path) -> list[tuple[str, str, str]]:
    return [(e.id, e.instruction, e.response) for e in load_examples(path)]


FILES = {
    "a.jsonl": lines(),
    "a.ndjson": lines(),
    "a.json": json.dumps(ROWS, indent=2).encode(),
    "list.jsonl": json.dumps(ROWS).encode(),
    "a.csv": separated(","),
    "semicolons.csv": separated(";"),
    "tabs.csv": separated("\t"),
    "a.tsv": separated("\t"),
    "A.TSV": separated("\t"),
    "a.jsonl.gz": gzip.compress(lines()),
    "a.json.gz": gzip.compress(json.dumps(ROWS).encode()),
    "a.csv.gz": gzip.compress(separated(",")),
    "a.tsv.gz": gzip.compress(separated("\t")),
    "a.jsonl.bz2": bz2.compress(lines()),
    "a.jsonl.xz": lzma.compress(lines()),
    "a.jsonl.zst": zstd(lines()),
    "two_members.jsonl.gz": gzip.compress(lines(ROWS[:1])) + gzip.compress(lines(ROWS[1:])),
    "packed_without_saying.jsonl": gzip.compress(lines()),
    "called_packed.jsonl.gz": lines(),
    "no_ending": lines(),
    "a.parquet": parquet(),
    "a.parquet.gz": gzip.compress(parquet()),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_read_by_its_path_and_by_its_bare_name(tmp_path, monkeypatch, name):
    (tmp_path / name).write_bytes(FILES[name])
    assert read(tmp_path / name) == WANTED
    monkeypatch.chdir(tmp_path)
    assert read(name) == WANTED
    assert len(load_examples(name, limit=2)) == 2


def test_made_ids_bear_the_name_without_its_endings(tmp_path):
    (tmp_path / "mine.jsonl.gz").write_bytes(
        gzip.compress(lines([{"id": None, "instruction": "a", "response": "b"}]))
    )
    assert read(tmp_path / "mine.jsonl.gz") == [("mine-00000", "a", "b")]


def test_a_pipe_is_read(tmp_path):
    import os
    import threading

    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(FILES["a.jsonl.gz"],))
    writer.start()
    assert read(tmp_path / "pipe") == WANTED
    writer.join()


def test_saved_data_sets_are_read_and_splits_named(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.chdir(tmp_path)
    data = datasets.Dataset.from_list(ROWS)
    data.save_to_disk("plain")
    datasets.DatasetDict({"train": data, "test": data.select([0])}).save_to_disk("split")
    datasets.DatasetDict({"a": data, "b": data}).save_to_disk("odd")
    assert read("plain") == read("split") == read(tmp_path / "odd" / "a") == WANTED
    assert read("split/test") == WANTED[:1]
    assert read(next(Path("plain").glob("*.arrow"))) == WANTED
    with pytest.raises(UserError, match=r"a split 'train', got a, b.*odd/a"):
        read("odd")


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_a_long_cell_is_read_and_the_limit_of_others_is_left_alone(tmp_path, delimiter):
    before = csv.field_size_limit()
    path = tmp_path / ("a.csv" if delimiter == "," else "a.tsv")
    text = "word " * 60_000
    path.write_text(f"instruction{delimiter}response\nSay it{delimiter}{text}\n")
    assert load_examples(path)[0].response == text
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("a.jsonl.gz", gzip.compress(lines())[:-12], "damaged"),
        ("a.jsonl.zst", zstd(lines())[:-6], "damaged"),
        ("a.xlsx", b"PK\x03\x04", "'.xlsx': convert it"),
        ("a.csv", b"instruction,response,response\na,b,c\n", "'response' twice"),
        ("a.csv", b"instruction,response\na\n", "a.csv:2: expected 2 columns"),
        ("a.jsonl", b'{"instruction": "a", "response": null}\n', "a.jsonl:1: expected"),
        ("a.jsonl", b'{"instruction": null, "response": "b"}\n', "a.jsonl:1: expected"),
        ("a.tsv", b"instruction\tresponse\na\t\n", "a.tsv:2: expected text in 'response'"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(tmp_path, name, data, told):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError) as caught:
        read(tmp_path / name)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_ids_that_repeat_are_refused_and_both_lines_named(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines([ROWS[0], ROWS[1], ROWS[0]]))
    with pytest.raises(UserError, match=r"a.jsonl:3: .*'r0' again \(first at .*a.jsonl:1\)"):
        read(tmp_path / "a.jsonl")


GOOD = {"instruction": "Q", "output_1": "good", "output_2": "bad", "preference": 1.0}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"output_2": None}, "text in 'output_2', got nothing"),
        ({"instruction": None}, "'instruction'"),
        ({"output_1": 7}, "text in 'output_1'"),
        ({"preference": None}, "a preference from 1"),
        ({"preference": True}, "a preference from 1"),
        ({"preference": "2.5"}, "a preference from 1"),
        ({"id": "p"}, "'p' again"),
    ],
)
def test_recorded_preferences_with_nulls_are_refused_with_their_line(tmp_path, change, told):
    path = tmp_path / "p.jsonl"
    path.write_bytes(lines([GOOD | {"id": "p"}, GOOD | change]))
    with pytest.raises(UserError, match=r"p\.jsonl:2: ") as caught:
        read_preferences(path)
    assert told in str(caught.value)


def test_preferences_without_ids_are_told_apart(tmp_path):
    path = tmp_path / "p.jsonl"
    turned = GOOD | {"output_1": "bad", "output_2": "good"}
    path.write_bytes(lines([{"id": None, **row} for row in (GOOD, GOOD, turned, turned)]))
    found = read_preferences(path)
    assert [p.id for p in found] == ["p-00000", "p-00001", "p-00002", "p-00003"]
    # A judge that always says "good" agrees on two of four: 50 %, not 0 %.
    assert sum(p.output_1 == "good" for p in found) == 2


QUESTIONS = [Question(id=str(n), category="", turns=(f"Question {n}?",)) for n in range(2)]


def test_a_baseline_of_two_generators_or_two_answers_is_refused(tmp_path):
    path = tmp_path / "base.json"

    def write(*rows: tuple[int, str, str | None]) -> None:
        path.write_text(
            json.dumps(
                [
                    {"instruction": f"Question {n}?", "output": text, "generator": who}
                    for n, text, who in rows
                ],
                indent=1,
            )
        )

    write((0, "a", "gpt4"), (1, "b", "gpt4"), (0, "c", "weak"))
    with pytest.raises(UserError, match="one generator, got those of gpt4, weak"):
        read_outputs(path, QUESTIONS)
    write((0, "a", "gpt4"), (1, "b", None))
    with pytest.raises(UserError, match="rows that name none, gpt4"):
        read_outputs(path, QUESTIONS)
    write((0, "a", "gpt4"), (1, "b", "gpt4"), (0, "c", "gpt4"))
    with pytest.raises(UserError, match=r"'Question 0\?' again \(first at .*:2\)"):
        read_outputs(path, QUESTIONS)
    write((1, "b", "gpt4"), (0, "a", "gpt4"))
    name, answers = read_outputs(path, QUESTIONS)
    assert (name, [a.responses for a in answers]) == ("gpt4", [("a",), ("b",)])


def test_rows_say_their_line_in_a_compressed_file(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"\n" + lines()))
    assert read_rows(tmp_path / "a.jsonl.gz")[0].where.endswith("a.jsonl.gz:2")
