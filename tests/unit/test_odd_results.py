"""Files under ``results/`` that somebody edited, merged or cut: one line, or read as they are."""

import dataclasses
import json
from typing import Any

import pytest
from bending import bent, places

from influbench.data.records import LedgerRow, Outcome, ResultRow, Score
from influbench.errors import UserError
from influbench.report.comparison import CompareConfig, verdict
from influbench.report.page.content import page_of
from influbench.results import RunResult, load_study, score_files, write, write_manifest
from influbench.results.differences import differences
from influbench.results.result_file import read
from influbench.results.score_files import ScoreFile

NAN = float("nan")
ODD = (None, True, -1, "0.5", [None], {"a": None}, NAN, "missing", "one more")


def record(kind: Any, **given) -> Any:
    """A record with a number or a word in every field."""
    simple = {"str": "a", "float": 0.5, "NonNegativeFloat": 0.5, "int": 1, "NonNegativeInt": 1}
    told: dict[str, Any] = {
        f.name: simple.get(f.type.split(" |")[0], "a") for f in dataclasses.fields(kind)
    }
    if kind is Score:
        told["per_reference"] = None
    return kind(**told | given)


def a_result(tmp_path):
    row = record(ResultRow, study="s", run="r0", low=0.25, high=0.75, student="")
    outcomes = {"trak": [record(Outcome), record(Outcome, item="b")]}
    found = RunResult(
        config={"seed": 0, "name": "tiny", "student": {"name": "tiny"}, "rounds": 1},
        provenance={"date": "2026", "command": ["influbench"], "versions": {"numpy": "2"}},
        rows=[row, dataclasses.replace(row, metric="pairs")],
        ledger=[record(LedgerRow)],
        outcomes=outcomes,
        others={"second": outcomes},
        scores={"exact": [record(Score)], "trak": [record(Score)]},
        groups={"a": "g"},
        notes=["leaky"],
    )
    return write(tmp_path, "s", "r0", found)


def refusal(read):
    """What the user is told; empty where the files are read."""
    try:
        read()
    except UserError as error:
        return str(error)
    return ""


def read_bent(path, odd, read):
    """Reads a file with something odd at every place, one after the other; what was told."""
    tree = json.loads(path.read_text())
    told = {}
    for place in places(tree):
        path.write_text(json.dumps(bent(tree, place, odd), indent=1))
        told[place] = refusal(lambda place=place: read(place))
    return told


def is_one_line(line, path):
    return str(path) in line and "\n" not in line and len(line) < len(str(path)) + 500


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_a_result_file_with_anything_anywhere_is_read_or_refused_in_one_line(tmp_path, odd):
    path = a_result(tmp_path)

    def read_as_reports_do(place):
        read(path)
        if place[0] in ("config", "provenance"):  # where more may stand than readers ask for
            differences(load_study("s", tmp_path))
            page_of(["s"], tmp_path)

    told = read_bent(path, odd, read_as_reports_do)
    assert all(is_one_line(line, path) for line in told.values() if line), told
    assert any(told.values())


WRONG = {
    "str": (None, True, 3, [], {}),
    "int": (None, True, "1", 0.5, -1, []),
    "float": (None, True, "0.5", [], {}),
}
"""By the type of a field, what is no such thing."""


@pytest.mark.parametrize(
    "table", ["rows", "ledger", "outcomes.trak", "others.second.trak", "scores.trak"]
)
def test_no_cell_of_a_table_takes_another_kind_of_value(tmp_path, table):
    path = a_result(tmp_path)
    tree = json.loads(path.read_text())
    found, within = tree, table.split(".")
    for part in within:
        found = found[part]
    for at, (name, old) in enumerate(zip(found["columns"], found["data"][0], strict=True)):
        nullable = name in ("low", "high", "stderr")
        for odd in WRONG[type(old).__name__]:
            if odd is None and nullable:
                continue
            path.write_text(json.dumps(bent(tree, (*within, "data", 0, at), odd), indent=1))
            line = refusal(lambda: read(path))
            assert f"{table}[0].{name}: expected" in line, (name, odd, line)
            assert "the same run again writes it anew" in line


def test_the_message_says_which_field_what_was_expected_and_what_came(tmp_path):
    path = a_result(tmp_path)
    tree = json.loads(path.read_text())
    tree["rows"]["data"][1][tree["rows"]["columns"].index("value")] = "60"
    path.write_text(json.dumps(tree, indent=1))
    line = refusal(lambda: load_study("s", tmp_path))
    assert line == (
        f"{path} is damaged or cut short (rows[1].value: expected number, got '60'): the same run "
        "again writes it anew from the store, or delete it to go on without"
    )


@pytest.mark.parametrize("change", ["another", "twice"])
def test_the_methods_of_a_run_scored_the_same_candidates_once_each(tmp_path, change):
    path = a_result(tmp_path)
    tree = json.loads(path.read_text())
    (row,) = tree["scores"]["trak"]["data"]
    tree["scores"]["trak"]["data"] = [row, row] if change == "twice" else [["b", *row[1:]]]
    path.write_text(json.dumps(tree, indent=1))
    with pytest.raises(UserError, match=r"r0\.json.*scores\.trak: expected"):
        load_study("s", tmp_path)


@pytest.mark.parametrize("text", [b"[" * 9999, b"\xff\xfe", b'{\n "format": "\\ud800"}', b"\0" * 9])
def test_a_file_of_other_bytes_is_named(tmp_path, text):
    path = a_result(tmp_path)
    path.write_bytes(text)
    assert is_one_line(refusal(lambda: load_study("s", tmp_path)), path)


def test_a_folder_with_the_name_of_a_result_is_named(tmp_path):
    a_result(tmp_path).with_name("r1.json").mkdir()
    with pytest.raises(UserError, match=r"r1\.json: expected a JSON file.*directory"):
        load_study("s", tmp_path)


def test_a_byte_order_mark_and_the_line_ends_of_windows_change_nothing(tmp_path):
    path = a_result(tmp_path)
    before = load_study("s", tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert load_study("s", tmp_path).rows.equals(before.rows)


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_a_manifest_with_anything_anywhere_is_read_or_refused_in_one_line(tmp_path, odd):
    a_result(tmp_path)
    path = write_manifest(tmp_path, "s", {"r0": {"seed": 0, "a": 1}, "r1": {"seed": 0, "a": 2}})
    told = read_bent(path, odd, lambda _: load_study("s", tmp_path))
    assert all(is_one_line(line, path) for line in told.values() if line), told
    if not isinstance(odd, str | list):
        assert told["axes",]
        assert told["axes", 0]


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_facts_about_scores_with_anything_anywhere_are_read_or_refused_in_one_line(tmp_path, odd):
    facts = {"digest": "d", "count": 2}
    about = {
        "estimator": "exact",
        "options": {"baseline": "before"},
        "scale": "nats",
        "needs": ["student"],
        "student": {"name": "tiny", "digest": "d"},
        **dict.fromkeys(("candidates", "reference", "warmup"), facts),
        "diagnostics": {
            **dict.fromkeys(("noise_floor", "parameter_share", "budget_used"), 0.1),
            **dict.fromkeys(("reference_loss_before", "reference_loss_null"), 0.5),
        },
    }
    scores = [Score(id=name, value=value) for name, value in (("a", 0.1), ("b", 0.3), ("c", 0.2))]
    paths = [tmp_path / f"{name}.jsonl" for name in ("exact", "trak")]
    for path in paths:
        paid = [record(LedgerRow, stage="score", phase="score")]
        file = ScoreFile(name=path.stem, scores=scores, groups={}, about=about, ledger=paid)
        score_files.write(path, file)
    meta = score_files.meta_path(paths[0])

    def compared(_):
        score_files.read(paths[0])
        if odd is None or odd == "missing":  # what may be left out is left out
            verdict(paths, CompareConfig(resamples=2))

    told = read_bent(meta, odd, compared)
    assert all(is_one_line(line, tmp_path) or "baseline" in line for line in told.values() if line)
    if odd != "one more":
        assert is_one_line(told["ledger", 0, "seconds"], meta)
