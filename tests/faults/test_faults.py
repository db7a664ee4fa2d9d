"""What may happen to a sweep: kills, full and read-only disks, damage, two at once, Ctrl-C.

After each the sweep is given again and must leave the records of an unbroken one, byte for byte,
and no process. ``make faults`` kills 20 times ($INFLUBENCH_KILLS); the suite twice.
"""

import datetime
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import children
import psutil
import pytest
from command import influbench

KILLS = int(os.environ.get("INFLUBENCH_KILLS", "2"))
STUDY = """
name: faults
question: Does it survive?
base: tiny
set: {scoring.compare: [exact, random], scoring.chunk_size: 1}
grid: {scoring.estimator: [exact, random]}
"""
SWEEP = ("sweep", "study.yaml")


def records(folder: Path) -> dict[str, bytes]:
    """Every record file of the store by entry, byte for byte."""
    store = folder / ".influbench"
    return {
        str(path.relative_to(store)): path.read_bytes()
        for path in sorted(store.glob("[!.]*/*.jsonl"))
        if path.name != "ledger.jsonl"
    }


def numbers(folder: Path) -> dict[str, object]:
    """The rows of every result file that hold no clock."""
    found = {}
    for path in sorted((folder / "results/faults").glob("*,*.json")):
        rows = json.loads(path.read_text())["rows"]
        metric = rows["columns"].index("metric")
        found[path.name] = [r for r in rows["data"] if "second" not in r[metric]]
        found[path.name] = [r for r in found[path.name] if "bytes" not in r[metric]]
    return found


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    (folder / "study.yaml").write_text(STUDY)
    done = influbench(*SWEEP, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def empty(tmp_path) -> Path:
    (tmp_path / "study.yaml").write_text(STUDY)
    return tmp_path


@pytest.fixture
def finished(unbroken, tmp_path) -> Path:
    return Path(shutil.copytree(unbroken, tmp_path / "copy"))


def again(folder: Path, unbroken: Path, *more: str) -> str:
    """Gives the sweep again, checks what it leaves, and returns what it said."""
    done = influbench(*SWEEP, *more, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert records(folder) == records(unbroken)
    assert numbers(folder) == numbers(unbroken)
    assert not list(folder.rglob("*/chunks/*")), "nothing half done stays"
    sys.stdout.write(f"{len(records(unbroken))} record files: 0 lost, 0 differ; ")
    return done.stderr


def start(folder: Path, *more: str) -> children.Child:
    return children.command(*SWEEP, *more, cwd=folder)


def at_work(folder: Path, process: children.Child, entries: int = 1) -> bool:
    """Waits until the process has begun so many entries; False where it ended before."""
    end = time.monotonic() + 600
    while len(list(folder.glob(".influbench/*/ledger.jsonl"))) < entries:
        if process.poll() is not None:
            return False
        assert time.monotonic() < end
        time.sleep(0.005)
    return True


def ended(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=300)[1]


@pytest.mark.slow
def test_killed_sweeps_leave_the_same_records_and_no_process(empty, unbroken):
    chance, kills, bent = random.Random(os.environ.get("INFLUBENCH_CHANCE", "0")), 0, 0
    total = len(list(unbroken.glob(".influbench/*/manifest.json")))
    for turn in range(KILLS):
        process = start(empty, "--jobs", str(1 + turn % 2))
        here = len(list(empty.glob(".influbench/*/ledger.jsonl")))
        goal = here + chance.randint(1, max(1, (total - here) // max(1, KILLS - turn)))
        if at_work(empty, process, goal):
            time.sleep(chance.uniform(0, 0.3))
        if process.poll() is None:
            workers = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            kills += 1
            process.wait()
            assert ended(workers), "workers end with the process that started them"
        else:
            shutil.rmtree(empty / ".influbench")
        for chunk in list(empty.glob(".influbench/*/chunks/*/*.jsonl"))[:1]:
            raw = bytearray(chunk.read_bytes())
            raw[chance.randrange(len(raw))] ^= 1
            chunk.write_bytes(raw)
            bent += 1
    assert kills
    again(empty, unbroken)
    sys.stdout.write(f"{kills} kills, {bent} chunks corrupted: 0 of {total} stages differ\n")


@pytest.mark.slow
def test_ctrl_c_ends_with_a_line_and_loses_nothing(empty, unbroken):
    process = start(empty, "--jobs", "2")
    assert at_work(empty, process, 4)
    workers = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to workers too
    code, said = process.wait(), process.said()
    assert code == 130, said
    assert said.strip().splitlines()[-1].startswith("influbench: stopped; what was finished is")
    assert "Traceback" not in said
    assert ended(workers)
    again(empty, unbroken)


@pytest.mark.slow
def test_two_sweeps_on_one_store_share_the_work(empty, unbroken):
    processes = [start(empty), start(empty)]
    codes = [process.wait() for process in processes]
    assert codes == [0, 0], [process.said() for process in processes]
    again(empty, unbroken)
    attempts = [
        row["attempts"]
        for path in empty.glob(".influbench/*/manifest.json")
        for row in json.loads(path.read_text())["ledger"]
        if row["phase"] == "run"
    ]
    assert set(attempts) == {1}, "no stage was made twice"


@pytest.mark.slow
def test_a_killed_worker_of_the_pool_costs_its_chunk(empty, unbroken):
    process = start(empty, "--executor", "pool", "--jobs", "1")
    assert at_work(empty, process, 5)
    workers = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "spawn_main" in " ".join(child.cmdline())
    ]
    workers[0].kill()
    assert process.wait() == 0, process.said()
    assert "worker was lost" in process.said()
    again(empty, unbroken)


def test_truncated_manifest_is_made_again(finished, unbroken):
    (manifest,) = finished.glob(".influbench/sft-random-*/manifest.json")
    manifest.write_bytes(manifest.read_bytes()[:-100])
    assert "damaged, made again" in again(finished, unbroken)


def test_truncated_result_file_is_written_again(finished, unbroken):
    (file,) = finished.glob("results/faults/random*.json")
    for size in (0, 9, file.stat().st_size - 50):
        file.write_bytes(file.read_bytes()[:size] or b"")
        again(finished, unbroken)


def test_flipped_bit_in_a_model_is_found_by_verify_and_made_good(finished, unbroken):
    (weights,) = finished.glob(".influbench/warm_up-*/student/model.safetensors")
    raw, when = bytearray(weights.read_bytes()), weights.stat().st_mtime_ns
    raw[-1] ^= 1
    weights.write_bytes(raw)
    os.utime(weights, ns=(when, when))  # as a disk that rots: no time of change
    found = influbench("store", "verify", cwd=finished)
    assert found.returncode == 1
    assert "model.safetensors: other content than was written" in found.stdout
    weights.touch()
    assert "warm_up: damaged, made again" in again(finished, unbroken)
    assert influbench("store", "verify", cwd=finished).returncode == 0


def test_edited_config_is_another_result_and_leaves_the_first(finished, unbroken):
    file = finished / "study.yaml"
    file.write_text(STUDY.replace("chunk_size: 1", "chunk_size: 1, sft.learning_rate: 2.0e-3"))
    done = influbench(*SWEEP, cwd=finished)
    assert done.returncode == 0, done.stderr
    assert numbers(finished) != numbers(unbroken)
    before = len(records(finished))
    file.write_text(STUDY)
    done = influbench(*SWEEP, cwd=finished)
    assert "started" not in done.stderr, done.stderr
    assert numbers(finished) == numbers(unbroken)
    gone = influbench("store", "gc", "--yes", cwd=finished)
    assert gone.returncode == 0, gone.stderr
    assert len(records(finished)) < before
    assert "started" not in again(finished, unbroken), "what the results are made of stayed"


def test_clock_going_backwards_changes_nothing(empty, unbroken, monkeypatch):
    ticks = iter(range(2_000_000_000, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(ticks)))
    again(empty, unbroken)
    rows = [
        row
        for path in empty.glob(".influbench/*/manifest.json")
        for row in json.loads(path.read_text())["ledger"]
    ]
    assert all(0 <= row["seconds"] < 600 for row in rows)
    (file,) = empty.glob("results/faults/exact*.json")
    told = json.loads(file.read_text())["provenance"]
    assert any(str(datetime.datetime.now(datetime.UTC).year) in str(v) for v in told.values())


def test_null_and_torn_lines_among_the_judgements_are_passed_over(finished, unbroken):
    archive = finished / ".influbench/judgements.jsonl"
    bought = archive.read_bytes().splitlines(keepends=True)
    wrong = json.loads(bought[0]) | {"text": None, "prompt_tokens": "many"}
    archive.write_bytes(
        b"null\n" + json.dumps(wrong).encode() + b"\n" + b"".join(bought[:-1]) + bought[-1][:-20]
    )
    judged = [*finished.glob(".influbench/compare-*"), *finished.glob(".influbench/grade-*")]
    assert judged
    for entry in judged:
        shutil.rmtree(entry)
    said = again(finished, unbroken)
    assert "compare" in said
    assert "Traceback" not in said


BROKEN = """
from dataclasses import dataclass
from influbench.estimators.random import Random

@dataclass(frozen=True)
class Mine(Random):
    def prepare(self, *args, **more):
        raise RuntimeError("no such column")
"""


def test_plugin_that_fails_is_named_and_stops_no_other_run(empty, unbroken):
    plugin = empty / "theirs.py"
    plugin.write_text(BROKEN)
    file = empty / "study.yaml"
    file.write_text(STUDY.replace("[exact, random]}", "[exact, random, 'theirs:Mine']}"))
    done = influbench(*SWEEP, cwd=empty, path=empty)
    assert done.returncode == 1, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert "theirs:Mine" in last
    assert "no such column" in last
    assert "bug of influbench" not in done.stderr
    file.write_text(STUDY)
    assert "started" not in again(empty, unbroken), "the other runs were finished"


def mounted(folder: Path, *options: str) -> None:
    done = subprocess.run(["mount", *options, str(folder)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount here: {done.stderr.decode().strip()}")


def test_full_disk_is_one_line_and_the_rest_is_kept(empty, unbroken):
    store = empty / ".influbench"
    store.mkdir()
    mounted(store, "-t", "tmpfs", "-o", "size=400k", "tmpfs")
    try:
        done = influbench(*SWEEP, cwd=empty)
        assert done.returncode == 2, done.stderr
        assert "the disk is full" in done.stderr.splitlines()[-1]
        subprocess.run(["mount", "-o", "remount,size=64m", str(store)], check=True)
        again(empty, unbroken)
    finally:
        subprocess.run(["umount", str(store)], check=True)


def test_full_disk_of_results_is_one_line_and_the_store_has_the_rest(empty, unbroken):
    results = empty / "results"
    results.mkdir()
    mounted(results, "-t", "tmpfs", "-o", "size=16k", "tmpfs")
    try:
        done = influbench(*SWEEP, cwd=empty)
        assert done.returncode == 2, done.stderr
        assert "the disk is full: could not write" in done.stderr.splitlines()[-1]
        assert "exact,seed=0.json" in done.stderr.splitlines()[-1]
        subprocess.run(["mount", "-o", "remount,size=64m", str(results)], check=True)
        assert "started" not in again(empty, unbroken)
    finally:
        subprocess.run(["umount", str(results)], check=True)


def test_read_only_store_answers_what_it_has_and_refuses_the_rest(finished, unbroken):
    store = finished / ".influbench"
    mounted(store, "--bind", str(store))
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(store)], check=True)
        assert "started" not in again(finished, unbroken)
        done = influbench(*SWEEP, "--set", "seed=5", cwd=finished)
        assert done.returncode == 2
        assert "name a folder that can be written" in done.stderr.splitlines()[-1]
    finally:
        subprocess.run(["umount", str(store)], check=True)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--store", "study.yaml"], "name a folder that can be written"),
        (["--results", "study.yaml"], "results cannot be written"),
        (["--results", ""], "got an empty name"),
        (["--store", ""], "got an empty name"),
    ],
)
def test_file_in_place_of_a_folder_is_one_line_before_any_work(empty, arguments, expected):
    done = influbench(*SWEEP, *arguments, cwd=empty)
    assert done.returncode == 2, done.stderr
    assert expected in done.stderr
    assert "bug" not in done.stderr
    assert "done in" not in done.stderr


def test_weights_that_were_let_go_come_back_only_for_what_is_not_there(
    finished, unbroken, tmp_path
):
    results = {path: path.read_bytes() for path in (finished / "results").rglob("*.json")}
    gone = influbench("store", "gc", "--weights", "--yes", cwd=finished)
    assert gone.returncode == 0, gone.stderr
    assert not list(finished.glob(".influbench/*/*/*.safetensors"))
    said = again(finished, unbroken)
    assert "started" not in said
    assert "made again" not in said
    assert {path: path.read_bytes() for path in results} == results
    whole = Path(shutil.copytree(unbroken, tmp_path / "whole"))

    def made_again(folder: Path, methods: str) -> list[str]:
        done = influbench(*SWEEP, "--set", f"scoring.compare=[exact,random,{methods}]", cwd=folder)
        assert done.returncode == 0, done.stderr
        lines = done.stderr.splitlines()
        return [line.split(": its weights")[0] for line in lines if "made again for" in line]

    assert made_again(finished, "length") == [], "a method that looks at no student"
    assert made_again(finished, "length,first_order") == ["warm_up"], "alone, for both runs"
    assert made_again(whole, "length,first_order") == []
    assert records(finished) == records(whole)
    assert numbers(finished) == numbers(whole)
    assert len(list(finished.glob(".influbench/*/*/*.safetensors"))) == 1
    assert influbench("store", "verify", cwd=finished).returncode == 0
