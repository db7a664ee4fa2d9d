"""Differences between estimators: paired by prompt, nested in seeds."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from influbench.records import Outcome
from influbench.results import load_study, result_file
from influbench.results.differences import differences
from influbench.results.result_file import RunResult


def outcomes(loss, grades=(), wins=()):
    rows = [Outcome(metric="heldout_loss", item=f"q{i}", value=v) for i, v in enumerate(loss)]
    rows += [Outcome(metric="win", item=f"q{i}", value=v) for i, v in enumerate(wins)]
    for i, (first, second) in enumerate(grades):
        rows.append(Outcome(metric="grade_1", item=f"m{i}", value=first))
        rows.append(Outcome(metric="grade_2", item=f"m{i}", value=second))
    return rows


def write(root: Path, run: str, seed: int, found: dict):
    result = RunResult(config={"seed": seed}, provenance={}, rows=[], outcomes=found)
    result_file.write(root, "s", run, result)


def table(root):
    frame = differences(load_study("s", root), np.random.default_rng(0))
    rows = [SimpleNamespace(**row) for row in frame.to_dict("records")]
    return {(row.metric, row.estimator): row for row in rows}


def test_the_control_is_subtracted_prompt_by_prompt(tmp_path):
    hard = [1.0, 5.0, 9.0]  # prompts differ far more than students do
    write(tmp_path, "a", 0, {"exact": outcomes([x - 0.1 for x in hard], [(4, 6)], [0.5, 0.7, 0.9])})
    write(tmp_path, "b", 0, {"random": outcomes(hard, [(2, 4)], [0.5, 0.5, 0.5])})
    found = table(tmp_path)
    loss = found["heldout_loss", "exact"]
    assert (loss.against, loss.seeds, loss.prompts) == ("random", 1, 3)
    assert loss.value == pytest.approx(-0.1)
    assert loss.low == pytest.approx(-0.1)
    assert loss.high == pytest.approx(-0.1)
    assert found["grade", "exact"].value == pytest.approx(2.0)
    assert found["win_rate", "exact"].value == pytest.approx(20.0)


def test_seeds_that_disagree_widen_the_interval(tmp_path):
    for seed, gap in ((0, -0.2), (1, 0.2)):
        write(tmp_path, f"a{seed}", seed, {"exact": outcomes([1 + gap, 2 + gap])})
        write(tmp_path, f"b{seed}", seed, {"random": outcomes([1.0, 2.0])})
    loss = table(tmp_path)["heldout_loss", "exact"]
    assert loss.seeds == 2
    assert loss.value == pytest.approx(0.0)
    assert loss.low == pytest.approx(-0.2)
    assert loss.high == pytest.approx(0.2)


def test_without_the_control_the_untaught_student_is_subtracted(tmp_path):
    write(tmp_path, "a", 0, {"exact": outcomes([2.0, 3.0]), "none": outcomes([1.0, 1.0])})
    row = table(tmp_path)["heldout_loss", "exact"]
    assert row.against == "none"
    assert row.value == pytest.approx(1.5)
    assert ("win_rate", "exact") not in table(tmp_path)  # the untaught student has no win rate


def test_different_configurations_of_one_estimator_are_not_mixed(tmp_path):
    write(tmp_path, "a", 0, {"exact": outcomes([1.0]), "none": outcomes([2.0])})
    write(tmp_path, "b", 0, {"exact": outcomes([1.5]), "none": outcomes([2.0])})
    assert table(tmp_path) == {}
