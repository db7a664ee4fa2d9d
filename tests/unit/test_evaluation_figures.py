"""The figures of evaluations, from a synthetic study."""

import importlib.util
from pathlib import Path

import pytest

from influbench.data.records import ResultRow
from influbench.errors import UserError
from influbench.results import RunResult, load_study, write

FIGURES = Path(__file__).parents[2] / "paper_figs"


def load(name):
    spec = importlib.util.spec_from_file_location(name, FIGURES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def study(root, numbers):
    rows = [
        ResultRow(
            study="s", run="r", estimator="a", round=1, seed=0,
            metric=metric, value=value, stderr=None, n=10, unit="",
        )
        for metric, value in numbers.items()
    ]  # fmt: skip
    result = RunResult(config={"baseline_name": "b"}, provenance={}, rows=rows, notes=["judge x"])
    write(root, "s", "r", result)
    return load_study("s", root)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("fig_mt_bench_radar", {f"mt_bench/grade/{c}": 5.0 for c in ("math", "stem", "coding")}),
        (
            "fig_head_to_head",
            {"head_to_head/win": 50.0, "head_to_head/tie": 30.0, "head_to_head/lose": 20.0},
        ),
    ],
)
def test_files_appear_and_are_repeatable(tmp_path, name, numbers):
    figure = load(name)
    loaded = study(tmp_path, numbers)
    files = figure.draw(loaded, tmp_path / "one")
    assert [f.name for f in files] == [f"{name}.pdf", f"{name}.png"]
    again = figure.draw(loaded, tmp_path / "two")
    assert [f.read_bytes() for f in files] == [f.read_bytes() for f in again]
    with pytest.raises(UserError, match="influbench evaluate"):
        figure.draw(study(tmp_path / "other", {"win_rate": 1.0}), tmp_path)


def test_calibration_of_the_adaptive_oracle(tmp_path):
    figure = load("fig_calibration")
    names = ("error_rate", "stated_error_rate", "saving")
    rows = [
        ResultRow(
            study="s", run="r", estimator=f"adaptive@{confidence}", round=1, seed=0,
            metric=f"{name}_{kind}", value=1 - confidence, stderr=0.01, n=10, unit="",
        )
        for confidence in (0.6, 0.9)
        for name in names
        for kind in ("real", "drawn", "close", "pairs")
    ]  # fmt: skip
    write(tmp_path, "s", "r", RunResult(config={}, provenance={}, rows=rows))
    files = figure.draw(load_study("s", tmp_path), tmp_path)
    assert [f.name for f in files] == ["fig_calibration.pdf", "fig_calibration.png"]
    with pytest.raises(UserError, match=r"experiments/adaptive_oracle\.yaml"):
        figure.draw(study(tmp_path / "other", {"win_rate": 1.0}), tmp_path)
