"""Candidates shared by processes: the same scores, one clear line, nothing lost in a kill."""

import dataclasses
import json
import multiprocessing
import time

import children
import numpy as np
import psutil
import pytest
from command import influbench

from influbench import models, scoring, training
from influbench.data.records import Score
from influbench.errors import UserError
from influbench.scoring import MethodConfig
from influbench.store import Store
from influbench.testing import tiny_examples
from influbench.training import WarmupConfig

CANDIDATES = tiny_examples("candidate", 10)
REFERENCE = tiny_examples("reference", 4)
WARMUP = tiny_examples("warmup", 6)


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("student"))
    cfg = WarmupConfig(batch_size=2, learning_rate=1e-3)
    return store.run(training.WARM_UP, cfg, WARMUP, models.resolve("tiny")).model("student")


def scored(folder, student, candidates=CANDIDATES, workers=1, estimator="exact"):
    cfg = MethodConfig(estimator=estimator, chunk_size=2, workers=workers)
    return Store(folder).run(scoring.STAGE, cfg, candidates, REFERENCE, WARMUP, student)


@pytest.fixture
def forked(monkeypatch):
    """A pool whose workers are forked: how they start is not what these tests are about."""
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: children.FORKS)


def test_oracle_does_not_depend_on_the_number_of_workers(tmp_path, student, forked):
    alone = scored(tmp_path / "one", student)
    shared = scored(tmp_path / "two", student, workers=2)
    one, two = (entry.records("scores", Score) for entry in (alone, shared))
    assert [s.id for s in two] == [c.id for c in CANDIDATES]
    values = np.array([s.value for s in one])
    assert np.abs(values - [s.value for s in two]).max() <= 1e-4 * values.std()
    assert shared.key == alone.key
    assert shared.meta["diagnostics"] == pytest.approx(alone.meta["diagnostics"])
    rows = {row.phase: row for row in shared.ledger()}
    assert rows["score"].items == len(CANDIDATES)
    assert rows["prepare"].attempts == 2  # each worker pays its own


def test_a_workers_bad_input_is_one_line(tmp_path, student, forked):
    long = dataclasses.replace(CANDIDATES[4], response="long " * 3000)
    with pytest.raises(UserError, match=f"'{long.id}' has .* tokens"):
        scored(tmp_path, student, [*CANDIDATES[:4], long], workers=2)


def test_a_judge_is_asked_by_one_process_only(tmp_path, student):
    with pytest.raises(UserError, match="set workers = 1"):
        scored(tmp_path, student, workers=2, estimator="judge")


def test_killed_oracle_workers_stop_and_what_they_finished_is_kept(tmp_path):
    names = {"c": (60, "candidate"), "r": (4, "reference"), "w": (6, "warmup")}
    for name, (count, stem) in names.items():
        rows = [
            {"id": e.id, "instruction": e.instruction, "response": e.response}
            for e in tiny_examples(stem, count)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    arguments = ["score", "--student", "tiny", "--candidates", "c.jsonl", "--reference", "r.jsonl"]
    arguments += ["--warmup", "w.jsonl", "--chunk-size", "2", "--workers", "2", "--out", "o.jsonl"]
    process = children.command(*arguments, cwd=tmp_path)

    def chunks():
        return list((tmp_path / ".influbench").glob("score-*/chunks/scores/[0-9]*.jsonl"))

    end = time.monotonic() + 600
    while len(chunks()) < 3:
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.01)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(workers, timeout=300)
    assert not alive
    kept = {path.name: path.read_bytes() for path in chunks()}
    assert 3 <= len(kept) < 30
    done = influbench(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [e.id for e in tiny_examples("candidate", 60)]
    for body in kept.values():  # not scored again: the very numbers that were kept
        for text in body.splitlines()[1:]:
            record = json.loads(text)
            assert record["value"] in [x["score"] for x in lines if x["id"] == record["id"]]
