"""``import influbench``: what a notebook sees, and the kinds of data that ``score`` takes."""

import subprocess
import sys
from importlib.metadata import version

import datasets
import pandas as pd
import pytest
from command import influbench as command

import influbench
from influbench.errors import UserError
from influbench.testing import tiny_examples

ROWS = [
    {"id": f"row-{i}", "instruction": f"Name {i + 2} rivers.", "response": "The Elbe. " * (i + 1)}
    for i in range(6)
]


@pytest.fixture
def score(tmp_path):
    def call(**given):
        given = {"candidates": ROWS, "reference": ROWS[:3], "estimator": "length"} | given
        return influbench.score(student="tiny", store=tmp_path / "store", **given)

    return call


def test_the_public_names_are_listed_and_there():
    names = [name for name in dir(influbench) if name != "__version__"]
    assert {"score", "compare", "run", "load_study", "Context", "Scores", "Example"} <= set(names)
    for name in names:
        assert getattr(influbench, name).__doc__
    assert influbench.__version__ == version("influbench")


def test_importing_is_instant_and_listing_loads_nothing():
    code = "import sys, influbench; dir(influbench); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_version_is_printed(tmp_path):
    done = command("--version", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.strip() == f"influbench {version('influbench')}"


def test_every_kind_of_rows_gives_the_same_scores(score):
    table = pd.DataFrame([*ROWS, {"id": "x", "instruction": "a", "output": "b"}])
    kinds = {
        "dictionaries": ROWS,
        "frame": table,
        "dataset": datasets.Dataset.from_list(ROWS),
        "generator": (row for row in ROWS),
    }
    found = {kind: score(candidates=rows, limit=6) for kind, rows in kinds.items()}
    for kind, frame in found.items():
        pd.testing.assert_frame_equal(frame, found["dictionaries"], obj=kind)
    assert list(found["frame"]["id"]) == [row["id"] for row in ROWS]


def test_examples_may_be_given_as_they_are(score):
    rows = tiny_examples("mine", 3)
    assert list(score(candidates=rows)["id"]) == [e.id for e in rows]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"instruction": "a"}], "candidates row 0: expected a field 'response'"),
        ([ROWS[0], "text"], "candidates row 1: expected a dictionary"),
        ([ROWS[0], ROWS[0]], "candidates row 1: expected every id once"),
        (pd.DataFrame([{"instruction": "a", "response": ""}]), "candidates row 0"),
    ],
)
def test_a_bad_row_is_named(score, rows, said):
    with pytest.raises(UserError, match=said):
        score(candidates=rows)


def test_the_commands_knobs_are_arguments(score):
    long = [{**ROWS[0], "response": "word " * 9000}, *ROWS[1:]]
    frame = score(
        candidates=long,
        estimator="exact",
        warmup=ROWS,
        max_length=64,
        per_reference=True,
        device="cpu",
        dtype="float32",
        limit=2,
        settings={"scoring.chunk_size": 1},
    )
    assert list(frame.columns) == ["id", "score", "stderr", "per_reference"]
    assert [len(each) for each in frame["per_reference"]] == [3, 3]
    with pytest.raises(UserError, match="there is no setting"):
        score(settings={"scoring.chunksize": 1})


def test_the_default_estimator_works_with_what_was_given_and_says_which(score, tmp_path):
    plain = score(estimator="auto", limit=2)
    assert plain.attrs["estimator"] == "gradient_dot"
    assert "no optimizer moments" in plain.attrs["notes"][0]
    warmed = score(estimator="auto", warmup=ROWS, limit=2)
    assert warmed.attrs["estimator"] == "exact"
    rows = pd.DataFrame(ROWS)
    for name in ("mine", "held"):
        rows.to_json(tmp_path / f"{name}.jsonl", orient="records", lines=True)
    given = ("--student", "tiny", "--candidates", "mine.jsonl", "--reference", "held.jsonl")
    done = command("score", *given, "--limit", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "estimator: gradient_dot, since the student has no optimizer moments" in done.stdout


def test_a_study_is_found_under_a_root_given_as_text(tmp_path):
    frame = influbench.run(
        "tiny",
        {"scoring.compare": [], "scoring.estimator": "none", "stop_after": "scores"},
        store=tmp_path / "store",
        root=str(tmp_path / "res"),
    )
    assert influbench.load_study("tiny", str(tmp_path / "res")).name == frame.name
