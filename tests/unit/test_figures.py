"""The figures, from a synthetic study: files appear, points stand where the numbers are."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from influbench.data.records import ResultRow
from influbench.errors import UserError
from influbench.results import RunResult, load_study, write

SCRIPT = Path(__file__).parents[2] / "paper_figs" / "fig_cost_quality.py"


def load():
    spec = importlib.util.spec_from_file_location("fig_cost_quality", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def figure():
    return load()


def study_in(root, methods, extra=()):
    """Methods: name -> (spearman, seconds per candidate, prepare seconds, win rate), or None."""

    def row(estimator, metric, value, half=None):
        return ResultRow(
            study="synthetic",
            run="r0",
            estimator=estimator,
            round=1,
            seed=0,
            metric=metric,
            value=value,
            low=None if half is None else value - half,
            high=None if half is None else value + half,
            stderr=None,
            n=10,
            unit="",
        )

    rows = [row(*numbers) for numbers in extra]
    for name, (spearman, seconds, prepare, win_rate) in methods.items():
        rows += [row(name, "seconds_per_candidate", seconds), row(name, "prepare_seconds", prepare)]
        if spearman is not None:
            rows.append(row(name, "spearman", spearman, 0.1))
        if win_rate is not None:
            rows.append(row(name, "win_rate", win_rate, 3))
    write(root, "synthetic", "r0", RunResult(config={}, provenance={"device": "cpu"}, rows=rows))
    return load_study("synthetic", root)


METHODS = {
    "exact": (None, 2.0, 1.0, 57.0),
    "trak": (0.5, 0.4, 6.0, 52.0),
    "gradient_dot": (0.5, 0.4, 1.0, None),
}


def drawn(figure, monkeypatch, study, out):
    kept = []
    original = figure.save
    monkeypatch.setattr(figure, "save", lambda f, *rest: kept.append(f) or original(f, *rest))
    return figure.draw(study, out), kept[0]


def test_a_pdf_and_a_png_appear_the_same_every_time(tmp_path, figure):
    study = study_in(tmp_path, METHODS)
    files = figure.draw(study, tmp_path / "new" / "folder")
    assert [f.name for f in files] == ["fig_cost_quality.pdf", "fig_cost_quality.png"]
    assert files[0].read_bytes().startswith(b"%PDF")
    assert files[1].read_bytes().startswith(b"\x89PNG")
    again = figure.draw(study, tmp_path / "again")
    assert [f.read_bytes() for f in files] == [f.read_bytes() for f in again]


def test_points_labels_axes(tmp_path, figure, monkeypatch):
    extra = [("none", "win_rate", 47.0), ("ceiling", "spearman", 0.9)]
    study = study_in(tmp_path, METHODS, extra)
    _, canvas = drawn(figure, monkeypatch, study, tmp_path / "out")
    left, right = canvas.axes
    points = {
        (float(line.get_xdata()[0]), float(line.get_ydata()[0]))
        for line in left.lines
        if line.get_marker() != "None"
    }
    assert points == {(2.0, 1.0), (0.4, 0.5)}
    assert left.get_xscale() == right.get_xscale() == "log"
    assert "seconds per candidate" in left.get_xlabel()
    assert "%" in right.get_ylabel()
    texts = {text.get_text().replace("\n", " ") for text in left.texts}
    assert texts == {"exact", "trak", "gradient_dot", "exact, half vs half"}
    assert {t.get_text().replace("\n", " ") for t in right.texts} == {
        "exact", "trak", "teacher not taught",
    }  # fmt: skip


def test_labels_of_equal_points_do_not_cover_each_other(tmp_path, figure, monkeypatch):
    methods = {"a": (0.5, 1.0, 0.0, None), "b": (0.5, 1.0, 0.0, None), "c": (0.5, 1.0, 0.0, None)}
    _, canvas = drawn(figure, monkeypatch, study_in(tmp_path, methods), tmp_path / "out")
    canvas.draw_without_rendering()
    boxes = [text.get_window_extent() for text in canvas.axes[0].texts]
    assert len(boxes) == 3
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_without_students_there_is_one_panel(tmp_path, figure, monkeypatch):
    methods = {name: (*numbers[:3], None) for name, numbers in METHODS.items()}
    _, canvas = drawn(figure, monkeypatch, study_in(tmp_path, methods), tmp_path / "out")
    assert len(canvas.axes) == 1


def test_a_study_with_nothing_to_draw_is_the_users_mistake(tmp_path, figure):
    study = study_in(tmp_path, {"trak": (None, 1.0, 1.0, None)})
    with pytest.raises(UserError, match="seconds_per_candidate and spearman or win_rate"):
        figure.draw(study, tmp_path)


def test_the_script_runs_without_torch(tmp_path):
    study = study_in(tmp_path, METHODS)
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['fig', {str(study.path)!r}, '--out', {str(tmp_path / 'out')!r}]\n"
        "try:\n"
        f"    runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0, end.code\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "fig_cost_quality.pdf").is_file()


def test_an_axis_that_does_not_change_a_number_does_not_double_its_point(
    tmp_path, figure, monkeypatch
):
    for rule, rate in (("margin", 51.0), ("sign", 53.0)):
        for seed in (0, 1):
            numbers = (
                ("spearman", 0.5), ("seconds_per_candidate", 0.4), ("win_rate", rate + seed),
            )  # fmt: skip
            rows = [
                ResultRow(
                    study="two", run=f"trak,{rule},{seed}", estimator="trak", round=1, seed=seed,
                    metric=metric, value=value, stderr=None, n=10, unit="",
                )
                for metric, value in numbers
            ]  # fmt: skip
            config = {
                "seed": seed,
                "scoring": {"estimator": "trak"},
                "preferences": {"rule": rule},
            }
            run = RunResult(config=config, provenance={"device": "cpu"}, rows=rows)
            write(tmp_path, "two", f"trak,{rule},{seed}", run)
    _, canvas = drawn(figure, monkeypatch, load_study("two", tmp_path), tmp_path / "out")
    left, right = canvas.axes
    assert [text.get_text() for text in left.texts] == ["trak"]
    assert [text.get_text() for text in right.texts] == ["trak (margin)", "trak (sign)"]
    assert "seeds: 2" in (tmp_path / "out" / "fig_cost_quality.txt").read_text()


def test_many_names_stand_in_a_legend_and_not_over_the_points(tmp_path, figure, monkeypatch):
    methods = {f"method_{i:02}": (i / 30, 0.1 * (i + 1), 0.0, None) for i in range(28)}
    _, canvas = drawn(figure, monkeypatch, study_in(tmp_path, methods), tmp_path / "out")
    assert not canvas.axes[0].texts
    (legend,) = canvas.legends
    assert [text.get_text() for text in legend.get_texts()] == sorted(methods)
    canvas.draw_without_rendering()
    assert canvas.axes[0].get_window_extent().width > 150  # the plot is not squeezed away


def test_a_crowd_in_several_places_gets_a_panel_a_place(tmp_path, figure, monkeypatch):
    names = [f"method_{i:02}" for i in range(28)]
    for place, cost in (("long", 2.0), ("short", 1.0)):
        rows = [
            ResultRow(
                study="two", run=place, estimator=name, round=1, seed=0, metric=metric,
                value=value, stderr=None, n=10, unit="",
            )
            for i, name in enumerate(names)
            for metric, value in (("spearman", i / 20 * cost / 2), ("seconds_per_candidate", cost))
        ]  # fmt: skip
        config = {"seed": 0, "data": {"reference": place}}
        run = RunResult(config=config, provenance={"device": "cpu"}, rows=rows)
        write(tmp_path, "two", place, run)
    _, canvas = drawn(figure, monkeypatch, load_study("two", tmp_path), tmp_path / "out")
    assert [axes.get_title(loc="left") for axes in canvas.axes] == ["long", "short"]
    (legend,) = canvas.legends
    assert [text.get_text() for text in legend.get_texts()] == names
    for axes, cost in zip(canvas.axes, (2.0, 1.0), strict=True):
        marks = [line for line in axes.lines if line.get_label() in names]
        points = {line.get_label(): (line.get_xdata()[0], line.get_ydata()[0]) for line in marks}
        assert points == {name: (cost, i / 20 * cost / 2) for i, name in enumerate(names)}
