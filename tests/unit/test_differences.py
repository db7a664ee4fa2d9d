"""Differences between estimators: paired by prompt, nested in seeds."""

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from influbench.data.records import Outcome
from influbench.errors import UserError
from influbench.report.tables import differences_table
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
    frame = differences(load_study("s", root))
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
    # Standard error 0.2, and Student's t with one degree of freedom is 12.7.
    assert loss.high == pytest.approx(12.706 * 0.2, rel=0.1)
    assert loss.low == pytest.approx(-loss.high)


def test_without_the_control_the_untaught_student_is_subtracted(tmp_path):
    write(tmp_path, "a", 0, {"exact": outcomes([2.0, 3.0]), "none": outcomes([1.0, 1.0])})
    row = table(tmp_path)["heldout_loss", "exact"]
    assert row.against == "none"
    assert row.value == pytest.approx(1.5)
    assert ("win_rate", "exact") not in table(tmp_path)  # the untaught student has no win rate


def test_any_arm_can_be_the_control(tmp_path):
    found = {"exact": outcomes([2.0, 3.0]), "random": outcomes([1.0, 1.0])}
    write(tmp_path, "a", 0, {**found, "bm25": outcomes([1.5, 2.0])})
    study = load_study("s", tmp_path)
    rows = differences(study, control="exact").to_dict("records")
    gaps = {row["estimator"]: (row["against"], row["value"]) for row in rows}
    assert gaps == {"random": ("exact", -1.5), "bm25": ("exact", -0.75)}
    with pytest.raises(UserError, match=r"an arm of s to compare with, got 'exat'; it has bm25, "):
        differences(study, control="exat")


def test_a_filter_is_compared_with_the_random_filter(tmp_path):
    found = {"filter:exact": outcomes([2.0, 3.0]), "filter:random": outcomes([1.0, 1.0])}
    write(tmp_path, "a", 0, {**found, "none": outcomes([0.0, 0.0])})
    row = table(tmp_path)["heldout_loss", "filter:exact"]
    assert (row.against, row.value) == ("filter:random", pytest.approx(1.5))


def test_different_configurations_of_one_estimator_are_not_mixed(tmp_path):
    write(tmp_path, "a", 0, {"exact": outcomes([1.0]), "none": outcomes([2.0])})
    write(tmp_path, "b", 0, {"exact": outcomes([1.5]), "none": outcomes([2.0])})
    frame = differences(load_study("s", tmp_path))
    found = {row["label"]: row["value"] for row in frame.to_dict("records")}
    assert found == {"exact (a)": pytest.approx(-1.0), "exact (b)": pytest.approx(-0.5)}


def test_arms_are_compared_within_their_place_on_the_axes(tmp_path):
    for rule, gap in (("margin", 0.1), ("sign", 0.4)):
        for seed in range(3):
            for arm, loss in (("exact", [1.0, 2.0]), ("random", [1.0 + gap, 2.0 + gap])):
                config = {
                    "seed": seed,
                    "scoring": {"estimator": arm},
                    "preferences": {"rule": rule},
                }
                result = RunResult(
                    config=config, provenance={}, rows=[], outcomes={arm: outcomes(loss)}
                )
                result_file.write(tmp_path, "s", f"{arm},{rule},{seed}", result)
    # `exact` is the same under both rules, so it is one arm against two controls: no control.
    assert differences(load_study("s", tmp_path)).empty
    for rule, gap in (("margin", 0.1), ("sign", 0.4)):
        for seed in range(3):
            path = tmp_path / "s" / f"exact,{rule},{seed}.json"
            _, run, result = result_file.read(path)
            changed = {"exact": outcomes([1.0 - gap, 2.0 - gap])}
            result_file.write(tmp_path, "s", run, replace(result, outcomes=changed))
    frame = differences(load_study("s", tmp_path))
    found = {row["label"]: (row["value"], row["seeds"]) for row in frame.to_dict("records")}
    assert found == {
        "exact (margin)": (pytest.approx(-0.2), 3),
        "exact (sign)": (pytest.approx(-0.8), 3),
    }


@pytest.mark.parametrize(("seeds", "said"), [(1, "one seed"), (2, "two seeds"), (3, "")])
def test_few_seeds_are_no_answer_and_dimmed(tmp_path, seeds, said):
    for seed in range(seeds):
        write(tmp_path, f"a{seed}", seed, {"exact": outcomes([1.0, 2.0])})
        write(tmp_path, f"b{seed}", seed, {"random": outcomes([1.1 + seed / 100, 2.3])})
    shown = differences_table(differences(load_study("s", tmp_path)))
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(shown)
    text = console.export_text()
    assert ("not an answer" in text) == bool(said)
    assert said in text
    assert [row.style for row in shown.rows] == ["dim" if said else None]
