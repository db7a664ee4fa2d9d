"""A refactor changes no number: ``tiny`` gives what ``tiny.json`` says (see ``record_tiny``)."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import children
import pytest
from golden import record_tiny

EXPECTED: dict[str, Any] = json.loads(record_tiny.WRITTEN.read_text())

HANGING_ON_LAST_BITS = {"dpo exact", "generate training-exact"}
"""Their inputs hold measured margins, or a teacher that learnt by them: another make of CPU, whose
products have other last bits, gives them other keys."""
ILL_CONDITIONED = {"trak": 1e-3}
"""Methods that solve with a kernel of few gradients, which makes 1e-4 of a last bit."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden")
    run = children.command(*record_tiny.command(folder), cwd=folder)
    assert run.wait() == 0, run.said()
    return folder


@pytest.fixture(scope="module")
def observed(folder: Path) -> dict[str, Any]:
    return record_tiny.observed(folder)


def test_stage_keys_are_those_written_down(observed):
    found, expected = observed["stages"], EXPECTED["stages"]
    assert found.keys() == expected.keys()
    differ = {name for name in expected if found[name] != expected[name]}
    assert differ <= HANGING_ON_LAST_BITS
    assert {n: found[n]["version"] for n in differ} == {n: expected[n]["version"] for n in differ}


def test_scores_are_those_written_down(observed):
    assert observed["scores"].keys() == EXPECTED["scores"].keys()
    for method, scores in EXPECTED["scores"].items():
        within = ILL_CONDITIONED.get(method, 1e-5)
        assert observed["scores"][method] == pytest.approx(scores, rel=within, abs=1e-7), method


def test_result_rows_are_those_written_down(observed):
    assert observed["rows"] == pytest.approx(EXPECTED["rows"], rel=1e-5, abs=1e-6)


def test_the_same_run_again_makes_nothing_and_loads_neither_torch_nor_transformers(folder):
    """Seconds of imports are most of what a run costs whose stages are all there."""
    again = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "influbench", *record_tiny.command(folder)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 0, again.stderr[-2000:]
    loaded = {
        line.rpartition("|")[2].strip().partition(".")[0]
        for line in again.stderr.splitlines()
        if line.startswith("import time:")
    }
    assert "influbench" in loaded
    assert not loaded & {"torch", "transformers", "trl", "peft", "datasets", "nltk"}
    assert not [line for line in again.stderr.splitlines() if line.endswith(": started")]
