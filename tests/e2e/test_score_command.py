"""``influbench score`` on users' files: what works, what is refused, and how."""

import json

import pandas as pd
import pytest
from command import influbench

pytestmark = pytest.mark.slow

ROWS = [
    {"id": f"row-{i}", "instruction": f"Name {i + 2} rivers.", "output": "The Elbe. " * (i + 1)}
    for i in range(6)
]


@pytest.fixture
def files(tmp_path):
    for name, rows in (("mine", ROWS), ("held", ROWS[:3]), ("warm", ROWS[::-1])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return tmp_path


def score(folder, *more, candidates="mine.jsonl"):
    return influbench(
        "score",
        *("--student", "tiny", "--candidates", candidates, "--reference", "held.jsonl"),
        *more,
        cwd=folder,
    )


def test_scores_come_in_the_candidates_order_with_the_ledger_printed(files):
    done = score(files, "--estimator", "gradient_dot", "--limit", "4", "--out", "scores.jsonl")
    assert done.returncode == 0, done.stderr
    frame = pd.read_json(files / "scores.jsonl", lines=True)
    assert list(frame["id"]) == [r["id"] for r in ROWS[:4]]
    assert not frame["score"].isna().to_numpy().any()
    assert "prepare" in done.stdout
    assert "row-0" in done.stdout


def test_exact_takes_its_moments_from_a_warm_up(files):
    refused = score(files, "--estimator", "exact")
    assert refused.returncode == 2
    assert "--warmup" in refused.stderr
    done = score(files, "--estimator", "exact", "--warmup", "warm.jsonl", "--out", "s.jsonl")
    assert done.returncode == 0, done.stderr
    assert {"score", "stderr"} <= set(pd.read_json(files / "s.jsonl", lines=True).columns)


def test_a_student_in_host_memory_gives_the_same_scores_from_the_command_line(files):
    frames = []
    for number, more in enumerate(([], ["--placement", "offloaded", "--token-budget", "300"])):
        told = ["--estimator", "exact", "--warmup", "warm.jsonl", "--store", f"store{number}"]
        done = score(files, *told, *more, "--out", f"s{number}.jsonl")
        assert done.returncode == 0, done.stderr
        frames.append(pd.read_json(files / f"s{number}.jsonl", lines=True)["score"].to_numpy())
    assert abs(frames[0] - frames[1]).max() < 1e-3 * frames[0].std()
    refused = score(files, "--placement", "nowhere")
    assert refused.returncode == 2
    assert "nowhere" in refused.stderr


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"instruction": "a", "response": "b"}\n{"instruction": "a", "resp', "bad.jsonl:2"),
        ('{"instruction": "", "response": "b"}\n', "bad.jsonl:1"),
        ('{"instruction": "a", "response": " "}\n', "bad.jsonl:1"),
        ('{"instruction": "a"}\n', "bad.jsonl:1"),
    ],
)
def test_a_bad_candidate_is_one_line_with_its_place(files, text, expected):
    (files / "bad.jsonl").write_text(text)
    done = score(files, "--estimator", "length", candidates="bad.jsonl")
    assert done.returncode == 2
    assert expected in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_candidate_that_the_student_cannot_hold_is_named(files):
    row = {"id": "huge", "instruction": "a", "response": "b" * 9000}
    (files / "bad.jsonl").write_text(json.dumps(row) + "\n")
    done = score(files, "--estimator", "loss", candidates="bad.jsonl")
    assert done.returncode == 2
    assert "'huge'" in done.stderr.splitlines()[-1]
    read = score(files, "--estimator", "length", candidates="bad.jsonl")
    assert read.returncode == 0, "a method that never looks at the student has no limit"


def test_a_missing_folder_for_the_output_is_refused_before_any_work(files):
    done = score(files, "--estimator", "length", "--out", "no/such/scores.jsonl")
    assert done.returncode == 2
    assert "there is no folder" in done.stderr
    assert not (files / ".influbench").exists()


def test_the_best_rows_are_written_as_the_user_had_them(files):
    more = ("--estimator", "length", "--top", "50%", "--out-data", "best.jsonl")
    done = score(files, *more)
    assert done.returncode == 0, done.stderr
    kept = [json.loads(line) for line in (files / "best.jsonl").read_text().splitlines()]
    assert kept == ROWS[3:]
    assert "Name 7 rivers. → The Elbe." in done.stdout
    again = score(files, *more)
    assert (again.returncode, "did not write" in again.stderr) == (2, True)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--top", "3"), "together"),
        (("--out-data", "best.jsonl"), "together"),
        (("--top", "none", "--out-data", "best.jsonl"), "such as 30%"),
        (("--top", "3", "--out-data", "best.csv"), "ends in '.jsonl'"),
        (("--top", "3", "--out-data", "mine.jsonl"), "an input"),
        (("--top", "3", "--out", "one.jsonl", "--out-data", "./one.jsonl"), "writes there as well"),
    ],
)
def test_a_selection_that_cannot_be_written_is_told_before(files, more, says):
    done = score(files, "--estimator", "length", *more)
    assert done.returncode == 2
    assert says in done.stderr
    assert not (files / ".influbench").exists()
