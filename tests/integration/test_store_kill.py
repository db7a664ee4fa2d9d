"""Kills a stage with SIGKILL, over and over, and compares what it leaves with an unbroken run."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from influbench.config import Config
from influbench.data.records import Example, Score
from influbench.store import Stage, Store, Work
from influbench.store.entry import MANIFEST

EXAMPLES = [Example(id=f"e{i}", instruction="x" * i, response="") for i in range(24)]
SIZE = 2
OPEN = Path(__file__)
"""A gate that is there."""


class Settings(Config):
    seed: int = 7


def wait_for(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 600
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.002)


def slow(cfg: Settings, examples, *, work: Work) -> None:
    """Short chunks, each noted in a file outside the store; all wait for the gate."""
    log, gate = Path(os.environ["CHUNK_LOG"]), Path(os.environ["CHUNK_GATE"])

    def score(part: list[Example]) -> list[Score]:
        with log.open("a") as file:
            file.write(f"{part[0].id}\n")
        wait_for(gate.exists)
        time.sleep(0.04)
        return [Score(id=e.id, value=random.Random(f"{cfg.seed}:{e.id}").gauss(0, 1)) for e in part]

    with work.meter.phase("score", items=len(examples)):
        scores = work.chunks("scores", examples, score, size=SIZE, kind=Score)
    (work.folder("model") / "weights").write_bytes(bytes(100_000))
    work.write("scores", scores)
    work.meta["sum"] = sum(s.value for s in scores)


STAGE = Stage("score", 1, slow)


def content(path: Path) -> dict[str, bytes]:
    return {
        p.relative_to(path).as_posix(): p.read_bytes()
        for p in path.rglob("*")
        if p.is_file() and p.name not in (MANIFEST, "ledger.jsonl")
    }


def start(root: Path, log: Path, gate: Path = OPEN) -> subprocess.Popen[str]:
    code = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path; import test_store_kill as t\n"
        "t.Store(Path(sys.argv[1])).run(t.STAGE, t.Settings(), t.EXAMPLES)"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, str(root), str(Path(__file__).parent)],
        env={**os.environ, "CHUNK_LOG": str(log), "CHUNK_GATE": str(gate)},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def unbroken(tmp_path, monkeypatch) -> dict[str, bytes]:
    monkeypatch.setenv("CHUNK_GATE", str(OPEN))
    monkeypatch.setenv("CHUNK_LOG", str(tmp_path / "unbroken.log"))
    entry = Store(tmp_path / "unbroken").run(STAGE, Settings(), EXAMPLES)
    return {**content(entry.path), "meta": json.dumps(entry.meta).encode()}


def lines(log: Path) -> int:
    return log.read_text().count("\n") if log.exists() else 0


def test_kills_lose_a_chunk_each_and_change_nothing(tmp_path, unbroken):
    root, log, kills = tmp_path / "killed", tmp_path / "killed.log", 0
    pause = random.Random(0)
    while True:
        process = start(root, log)
        goal = lines(log) + 4
        wait_for(lambda: process.poll() is not None or lines(log) >= goal)  # noqa: B023
        time.sleep(pause.uniform(0, 0.05))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, process.communicate()[1]
    assert kills >= 2
    entry = Store(root).run(STAGE, Settings(), EXAMPLES)
    assert entry.cached
    assert {**content(entry.path), "meta": json.dumps(entry.meta).encode()} == unbroken
    made = log.read_text().split()
    assert len(made) <= len(EXAMPLES) // SIZE + kills, "a kill costs at most the chunk it hits"
    score = next(r for r in entry.ledger() if r.phase == "score")
    assert score.items == len(EXAMPLES), "items are handled once, however many attempts it took"
    assert 2 <= score.attempts <= kills + 1
    finished = len(EXAMPLES) // SIZE
    run = next(r for r in entry.ledger() if r.phase == "run")
    assert score.seconds + run.seconds >= 0.04 * finished, "what a killed attempt spent counts"


def owner_and_waiting(root: Path, log: Path, gate: Path) -> list[subprocess.Popen[str]]:
    """A process in its first chunk, which waits for the gate, and one that waits for its lock."""
    owner = start(root, log, gate)
    wait_for(log.exists)
    waiting = start(root, log, gate)
    assert waiting.stderr is not None
    line = waiting.stderr.readline()
    assert line == "score: another process is working on it; waiting for it\n"
    return [owner, waiting]


def test_two_processes_do_the_work_once(tmp_path, unbroken):
    root, log, gate = tmp_path / "shared", tmp_path / "shared.log", tmp_path / "gate"
    processes = owner_and_waiting(root, log, gate)
    gate.touch()
    assert [p.communicate(timeout=600)[1] for p in processes] == ["", ""]
    assert [p.returncode for p in processes] == [0, 0]
    assert len(log.read_text().split()) == len(EXAMPLES) // SIZE
    entry = Store(root).run(STAGE, Settings(), EXAMPLES)
    assert {**content(entry.path), "meta": json.dumps(entry.meta).encode()} == unbroken


def test_a_killed_owner_does_not_lock_out_the_one_who_waits(tmp_path, unbroken):
    root, log, gate = tmp_path / "handed over", tmp_path / "handed over.log", tmp_path / "gate"
    owner, waiting = owner_and_waiting(root, log, gate)
    owner.kill()
    owner.communicate()
    gate.touch()
    waiting.communicate(timeout=600)
    assert waiting.returncode == 0
    entry = Store(root).run(STAGE, Settings(), EXAMPLES)
    assert {**content(entry.path), "meta": json.dumps(entry.meta).encode()} == unbroken
