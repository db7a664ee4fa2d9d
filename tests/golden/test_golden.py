"""A refactor changes no number: ``tiny`` gives what ``tiny.json`` says (see ``record_tiny``)."""

import json
from typing import Any

import pytest
from golden.record_tiny import WRITTEN, observe

EXPECTED: dict[str, Any] = json.loads(WRITTEN.read_text())


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return observe(tmp_path_factory.mktemp("golden"))


def test_stage_keys_are_those_written_down(observed):
    assert observed["stages"] == EXPECTED["stages"]


def test_scores_are_those_written_down(observed):
    assert observed["scores"].keys() == EXPECTED["scores"].keys()
    for method, scores in EXPECTED["scores"].items():
        assert observed["scores"][method] == pytest.approx(scores, rel=1e-5, abs=1e-7), method


def test_result_rows_are_those_written_down(observed):
    assert observed["rows"] == pytest.approx(EXPECTED["rows"], rel=1e-5, abs=1e-6)
