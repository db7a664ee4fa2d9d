"""The GPU's benchmark runs on a CPU at toy sizes, and nothing that goes wrong in it loses a row."""

import json
import os
import subprocess
import sys
import time

import pytest
import torch

from benchmarks.gpu import __main__ as driver
from benchmarks.gpu import parts, rows

TOY = parts.Sizes(torch.device("cpu"), "toy", "toy", "toy", 3, 60, 2)


@pytest.mark.parametrize(
    "name", [name for name in parts.PARTS if name not in ("loop", "135M bf16")]
)
def test_every_part_measures_at_toy_sizes(name, tmp_path):
    file = tmp_path / "gpu.jsonl"
    parts.PARTS[name](TOY, rows.Recorder(file, name))
    found = rows.read(file)
    assert len(found) > 1
    assert not [row for row in found if row.unit == "error"]
    assert all(row.value is not None and row.value >= 0 for row in found)


def test_every_part_has_a_limit_and_a_process():
    assert [name for group in driver.GROUPS for name in group] != []
    assert {name for group in driver.GROUPS for name in group} == parts.PARTS.keys()


def test_the_command_prints_a_table_last_and_writes_it(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu", "--toy", "--only", "machine"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)], capture_output=True, text=True, check=True
    )
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert [row["name"] for row in found][-1] == "the whole part"
    assert rows.line(rows.Row(**found[-1])) == done.stdout.splitlines()[-1]


def test_an_error_is_a_row_and_the_rest_goes_on(tmp_path):
    record = rows.Recorder(tmp_path / "rows", "part")
    with record.guard("what fails"):
        raise ValueError("first line\nsecond line")
    record("after it", 1.0, "s")
    failed, after = rows.read(tmp_path / "rows")
    assert failed.unit == "error"
    assert "ValueError: first line" in failed.note
    assert "second" not in failed.note
    assert after.value == 1.0


def test_a_part_that_takes_too_long_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setitem(parts.PARTS, "machine", lambda *_: time.sleep(300))
    monkeypatch.setitem(os.environ, driver.LIMITS, json.dumps({"machine": 0.2}))
    began = time.monotonic()
    driver._part("machine", tmp_path / "rows", toy=True)
    assert time.monotonic() - began < 200
    assert rows.read(tmp_path / "rows")[-1].name == "stopped"
