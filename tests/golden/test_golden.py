"""A refactor changes no number: ``tiny`` gives what ``tiny.json`` says (see ``record_tiny``)."""

import json
from typing import Any

import children
import pytest
from golden import record_tiny

EXPECTED: dict[str, Any] = json.loads(record_tiny.WRITTEN.read_text())


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("golden")
    run = children.command(*record_tiny.command(folder), cwd=folder)
    assert run.wait() == 0, run.said()
    return record_tiny.observed(folder)


def test_stage_keys_are_those_written_down(observed):
    assert observed["stages"] == EXPECTED["stages"]


def test_scores_are_those_written_down(observed):
    assert observed["scores"].keys() == EXPECTED["scores"].keys()
    for method, scores in EXPECTED["scores"].items():
        assert observed["scores"][method] == pytest.approx(scores, rel=1e-5, abs=1e-7), method


def test_result_rows_are_those_written_down(observed):
    assert observed["rows"] == pytest.approx(EXPECTED["rows"], rel=1e-5, abs=1e-6)
