"""Studies with several axes: rows know them, seeds are put together, old cells are told apart."""

import io
import re

import pandas as pd
import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from influbench.data.records import LedgerRow, Outcome, ResultRow
from influbench.errors import UserError
from influbench.report.notes import base_verdict, lines_of
from influbench.report.screen import screen
from influbench.results import RunResult, load_study, write, write_manifest
from influbench.results.axes import axes_of
from influbench.results.headline import headline
from influbench.statistics.estimate import Estimate

ARMS, RULES, SEEDS = ("exact", "trak", "random"), ("margin", "sign"), (0, 1)


def config(arm, rule, seed):
    return {
        "seed": seed,
        "scoring": {"estimator": arm, "options": {"projection": 64} if arm == "trak" else {}},
        "preferences": {"rule": rule},
        "generation": {"seed": seed},
    }


def row(run, estimator, seed, metric, value, unit="", **more):
    given = {"low": None, "high": None, "stderr": None, "n": 20} | more
    return ResultRow(
        study="s", run=run, estimator=estimator, round=1, seed=seed, metric=metric, value=value,
        unit=unit, **given,
    )  # fmt: skip


def name(arm, rule, seed):
    return f"{arm},seed={seed},preferences.rule={rule}"


def write_run(root, arm, rule, seed, base=None):
    run = name(arm, rule, seed)
    loss = 3.0 + 0.1 * ARMS.index(arm) + 0.5 * RULES.index(rule) + 0.01 * seed
    rows = [
        # What does not depend on the rule stands in every run, as the shared stages left it.
        row(run, "none", seed, "heldout_loss", 3.3 + 0.02 * seed, "nats/token", stderr=0.1),
        row(run, "trak", seed, "spearman", 0.4 + 0.2 * seed, low=0.3, high=0.7),
        row(run, "random", seed, "spearman", 0.1 - 0.2 * seed, low=-0.3, high=0.3),
        row(run, "trak", seed, "seconds_per_candidate", 1.0 + RULES.index(rule), "s"),
        row(run, "random", seed, "seconds_per_candidate", 0.01, "s"),
        row(run, arm, seed, "heldout_loss", loss, "nats/token", stderr=0.1),
    ]
    if base is not None:
        rows.append(row(run, "base", seed, "heldout_loss", base, "nats/token"))
    outcomes = {
        arm: [Outcome(metric="heldout_loss", item=f"q{i}", value=loss + i) for i in range(4)]
    }
    result = RunResult(
        config=config(arm, rule, seed), provenance={"device": "cpu"}, rows=rows, outcomes=outcomes
    )
    write(root, "s", run, result)


@pytest.fixture
def grid(tmp_path):
    for arm in ARMS:
        for rule in RULES:
            for seed in SEEDS:
                write_run(tmp_path, arm, rule, seed)
    return tmp_path


def shown(study, width=80):
    console = Console(width=width, record=True, file=io.StringIO())
    for table in screen(study, width):
        console.print(table)
    return console.export_text()


def test_an_axis_is_a_setting_that_varies_within_an_arm():
    configs = {
        name(a, r, s): config(a, r, s) for a in ARMS for r in RULES for s in SEEDS
    }  # fmt: skip
    assert axes_of(configs) == ["preferences.rule"]
    assert axes_of({"a": config("trak", "sign", 0), "b": config("exact", "sign", 1)}) == []


def test_every_frame_has_the_axes_as_columns(grid):
    study = load_study("s", grid)
    assert study.axes == ("preferences.rule",)
    for frame in (study.rows, study.estimates, study.outcomes):
        assert "preferences.rule" in frame.columns
    loss = study.rows.query("metric == 'heldout_loss' and estimator == 'trak'")
    wide = loss.pivot_table("value", "preferences.rule", "seed")
    assert wide.loc["sign", 1] == pytest.approx(3.61)


def test_seeds_are_put_together_and_only_axes_that_matter_split(grid):
    frame = load_study("s", grid).estimates.set_index(["label", "metric"])
    assert frame.loc[("trak (margin)", "heldout_loss"), "seeds"] == 2
    assert frame.loc[("trak (sign)", "heldout_loss"), "value"] == pytest.approx(3.605)
    assert frame.loc[("none", "heldout_loss"), "value"] == pytest.approx(3.31)
    # trak's agreement is one number; it is shown in both of its rows.
    assert frame.loc[("trak (margin)", "spearman"), "value"] == pytest.approx(0.5)


def test_the_table_of_two_axes_is_short_and_fits_eighty_columns(grid):
    text = shown(load_study("s", grid))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) < 60
    # Axis and arm stand in columns of their own, unbroken.
    assert sum(bool(re.match(r"\s*trak\s+margin\s", line)) for line in lines) == 1
    assert "seed=0" not in text


@pytest.mark.parametrize("width", [80, 140, 300])
def test_no_name_is_broken_at_any_width(grid, width):
    lines = shown(load_study("s", grid), width).splitlines()
    assert max(map(len, lines)) <= width
    assert any(re.match(r"\s*random\s+margin\s", line) for line in lines)


def test_notes_that_differ_by_a_number_or_an_arm_are_said_once(tmp_path):
    for arm, cut in (("trak", 3), ("random", 12)):
        run = name(arm, "sign", 0)
        notes = ["leaky", f"answers of {arm}: {cut} of 24 turns empty"]
        rows = [row(run, arm, 0, "heldout_loss", 3.0, "nats/token")]
        write(tmp_path, "s", run, RunResult(config={}, provenance={}, rows=rows, notes=notes))
    lines = lines_of(load_study("s", tmp_path))
    assert lines[-2:] == ["leaky", "answers of random: 12 of 24 turns empty [and 1 like it]"]


def test_two_seeds_give_no_interval_outside_the_bounds(grid):
    found = load_study("s", grid).estimates
    correlations = found[found["metric"] == "spearman"]
    assert all(-1 <= bound <= 1 for end in ("low", "high") for bound in correlations[end])
    assert all(low > 0 for low in found[found["metric"] == "heldout_loss"]["low"])


def test_runs_taken_out_of_the_grid_are_left_out_and_named(grid):
    kept = {name(a, r, s): config(a, r, s) for a in ARMS for r in RULES for s in SEEDS}
    gone = [run for run in kept if run.startswith("trak")]
    for run in gone:
        del kept[run]
    kept["exact,seed=2"] = config("exact", "margin", 2)
    write_manifest(grid, "s", kept)
    study = load_study("s", grid)
    assert sorted(study.strays) == sorted(gone)
    assert study.missing == ("exact,seed=2",)
    assert not any(run.startswith("trak") for run in study.rows["run"])
    text = " ".join(shown(study).split())
    assert "left out: 4 runs (trak,seed=0,preferences.rule=margin" in text
    assert "grid does not have" in text
    assert "not run yet: 1 run (exact,seed=2)" in text


def test_without_a_manifest_every_file_counts(grid):
    study = load_study("s", grid)
    assert (study.strays, study.missing) == ((), ())
    assert len(study.runs) == 12


def test_a_damaged_manifest_is_named(grid):
    (grid / "s" / "study.json").write_text("{")
    with pytest.raises(UserError, match=r"study\.json is damaged"):
        load_study("s", grid)


def test_no_run_can_be_called_like_the_manifest(tmp_path):
    with pytest.raises(UserError, match="run name"):
        write(tmp_path, "s", "study", RunResult(config={}, provenance={}, rows=[]))


@pytest.mark.parametrize(
    ("base", "said"),
    [(3.15, "2 of 7 trained arms beat the base"), (2.5, "WARNING: none of 7 trained arms beats")],
)
def test_the_first_line_under_the_table_compares_with_the_base_student(tmp_path, base, said):
    for arm in ARMS:
        for rule in RULES:
            for seed in SEEDS:
                write_run(tmp_path, arm, rule, seed, base)
    study = load_study("s", tmp_path)
    tables = screen(study, 80)
    notes = next(shown for shown in tables if isinstance(shown, Text))
    assert said in str(notes).splitlines()[0]
    students = tables[tables.index(notes) - 1]
    assert isinstance(students, Table)
    first = [str(cell) for cell in students.columns[0].cells]
    assert first[:2] == ["base", "none"]


def test_without_a_base_student_nothing_is_said_of_it(grid):
    assert base_verdict(load_study("s", grid)) is None


def test_axis_columns_stand_in_ledger_and_scores_too(tmp_path):
    for rule in RULES:
        ledger = LedgerRow(
            stage="dpo", label="trak", phase="run", items=1, seconds=1.0, device_seconds=0.0,
            peak_bytes=1, forward_passes=1, backward_passes=1, tokens=1, api_calls=0,
            api_prompt_tokens=0, api_completion_tokens=0, money=0.0, attempts=1,
        )  # fmt: skip
        result = RunResult(config=config("trak", rule, 0), provenance={}, rows=[], ledger=[ledger])
        write(tmp_path, "s", name("trak", rule, 0), result)
    study = load_study("s", tmp_path)
    assert study.ledger["preferences.rule"].tolist() == ["margin", "sign"]
    assert "preferences.rule" in study.scores.columns


def estimates(*rows):
    columns = ["run", "estimator", "round", "seed", "metric", "value", "n", "unit", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def number(run, estimator, seed, value, round_=1):
    return [run, estimator, round_, seed, "win_rate", value, 10, "%", float("nan"), float("nan")]


def test_headline_averages_seeds_of_the_last_round():
    table = headline(estimates(
        number("r0", "trak", 0, 99.0, 1), number("r0", "trak", 0, 40.0, 2),
        number("r1", "trak", 1, 60.0, 2),
    ))  # fmt: skip
    assert table[["label", "value", "seeds"]].to_numpy().tolist() == [["trak", 50.0, 2]]


def test_headline_never_averages_two_settings_of_one_estimator():
    table = headline(
        estimates(
            number("wide", "trak", 0, 40.0),
            number("narrow", "trak", 0, 60.0),
            number("wide", "none", 0, 50.0),
            number("narrow", "none", 0, 50.0),
        )
    )
    assert sorted(table["label"]) == ["none", "trak (narrow)", "trak (wide)"]


def test_headline_of_an_empty_study_is_empty():
    assert headline(estimates()).empty


def test_an_estimate_in_another_unit_is_scaled_with_its_doubt():
    one = Estimate(value=0.5, low=0.4, high=0.7, stderr=0.1, n=7)
    assert one.scaled(100, "%") == Estimate(
        value=50.0, low=40.0, high=70.0, stderr=10.0, n=7, unit="%"
    )
    assert Estimate(value=1.0, n=1).scaled(2, "").low is None
