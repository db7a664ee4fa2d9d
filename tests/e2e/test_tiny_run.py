"""The whole loop on the tiny model through the command line, offline, as a user runs it."""

import json
import time
from pathlib import Path

import children
import pytest
from command import influbench, python

pytestmark = pytest.mark.slow

TINY = ("run", "tiny", "--set", "scoring.chunk_size=1")
"""One candidate a chunk, so that there are many moments to be killed at."""


def records(store):
    """Every record file of a store by entry, byte for byte."""
    return {
        str(path.relative_to(store)): path.read_bytes()
        for path in sorted(store.glob("*/*.jsonl"))
        if path.name != "ledger.jsonl"
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder where the tiny preset has run once, unbroken."""
    folder = tmp_path_factory.mktemp("unbroken")
    done = influbench(*TINY, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_the_table_has_every_estimator_with_cost_and_quality(finished):
    folder, done = finished
    for name in ("exact", "gradient_dot", "trak", "judge", "random", "length", "ceiling"):
        assert name in done.stdout
    raw = json.loads((folder / "results/tiny/exact,seed=0.json").read_text())
    rows = [dict(zip(raw["rows"]["columns"], row, strict=True)) for row in raw["rows"]["data"]]
    found = {(row["estimator"], row["metric"]): row for row in rows}
    candidates = raw["config"]["sizes"]["candidates"]
    references = raw["config"]["data"]["num_reference"]
    assert found["exact", "passes_per_candidate"]["value"] == 3 + references
    assert found["exact", "prepare_passes"]["value"] == 2 * references
    assert found["gradient_dot", "prepare_passes"]["value"] == 3 * references
    assert found["gradient_dot", "passes_per_candidate"]["value"] == 3
    assert found["random", "passes_per_candidate"]["value"] == 0
    assert found["gradient_dot", "spearman"]["n"] == candidates
    for estimator in ("none", "exact"):
        for metric in ("grade", "heldout_loss"):
            row = found[estimator, metric]
            assert row["low"] <= row["value"] <= row["high"]
    assert 0 <= found["exact", "win_rate"]["value"] <= 100
    assert any("plumbing" in note for note in raw["notes"])


def test_a_second_run_comes_from_the_store_with_the_same_bytes(finished):
    folder, done = finished
    before = {p: p.read_bytes() for p in (folder / "results").rglob("*.json")}
    again = influbench(*TINY, cwd=folder)
    assert again.returncode == 0, again.stderr
    assert "started" not in again.stderr
    assert again.stdout == done.stdout
    assert {p: p.read_bytes() for p in (folder / "results").rglob("*.json")} == before


def test_the_figure_is_drawn_from_the_results(finished):
    folder, _ = finished
    done = influbench("figures", "tiny", "--out", "drawn", cwd=folder)
    assert done.returncode == 0, done.stderr
    kinds = {path.suffix for path in (folder / "drawn").iterdir()}
    assert kinds == {".md", ".pdf", ".png", ".tex", ".txt"}


@pytest.mark.parametrize("stage", ["generate", "score"])
def test_killed_and_resumed_runs_leave_identical_records(finished, tmp_path, stage):
    unbroken, _ = finished
    kills = 0
    for _ in range(2):
        process = children.command(*TINY, cwd=tmp_path)
        if wait_for_chunk(tmp_path / ".influbench", stage, process):
            process.kill()
            kills += 1
        process.wait()
    assert kills
    done = influbench(*TINY, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert records(tmp_path / ".influbench") == records(unbroken / ".influbench")


def wait_for_chunk(store: Path, stage: str, process) -> bool:
    """Whether the process, still at work, left a chunk of a half-done entry of this stage."""
    while process.poll() is None:
        if any(
            not (entry / "manifest.json").exists() and any((entry / "chunks").rglob("*.jsonl"))
            for entry in store.glob(f"{stage}-*")
        ):
            return True
        time.sleep(0.001)
    return False


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "tiny", "--set", "scoring.estimator=nosuch"], "no estimator named 'nosuch'"),
        (["run", "tiny", "--set", "scoring.options.baselin=null"], "no option 'baselin'"),
        (["run", "tiny", "--set", "scoring.estimatr=exact"], "did you mean estimator"),
        (["run", "tiny", "--set", "dpo.beta=much"], "dpo.beta"),
        (["run", "nosuch"], "expected a preset ("),
        (["run", "tiny", "--set", "data.reference=nowhere.jsonl"], "nowhere.jsonl"),
        (
            ["run", "tiny", "--set", "scoring.estimator=length", "--set", "preferences.rule=sign"],
            "needs scores with a zero",
        ),
        (["run", "tiny", "--set", "student.name=./no-model"], "expected a folder with a model"),
        (["run", "tiny", "--set", "data.num_reference=1"], "expected 2 or more"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, arguments, expected):
    done = influbench(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert expected in lines[0]


def test_listing_estimators_does_not_import_torch(tmp_path):
    code = (
        "import sys\n"
        "sys.argv = ['influbench', 'estimators']\n"
        "from influbench.__main__ import main\n"
        "try:\n main()\nexcept SystemExit:\n pass\n"
        "assert 'torch' not in sys.modules"
    )
    done = python("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "gradient_dot" in done.stdout
