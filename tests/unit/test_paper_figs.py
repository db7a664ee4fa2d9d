"""All figures and tables: drawn where records allow, said where not, the same bytes each time."""

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib.figure
import numpy as np
import pytest
from command import influbench
from figure_boxes import overlaps

from influbench.data.records import LedgerRow, Outcome, ResultRow, Score
from influbench.errors import UserError
from influbench.results import RunResult, load_study, write
from paper_figs import catalogue, tab_published
from paper_figs.drawing import MissingError

ROOT = Path(__file__).parents[2]
COMMITTED = sorted(folder.name for folder in (ROOT / "results").iterdir() if folder.is_dir())
CONFIG = {"student": {"name": "tiny"}, "scoring": {"estimator": "exact"}}


def row(estimator, metric, value, half=None, n=12, unit="", number=1):
    low, high = (None, None) if half is None else (value - half, value + half)
    return ResultRow(
        study="made_up", run="r0", estimator=estimator, round=number, seed=0, metric=metric,
        value=value, low=low, high=high, stderr=None, n=n, unit=unit,
    )  # fmt: skip


def scores(seed, count=24, shift=0.0):
    rng = np.random.default_rng(seed)
    return [
        Score(id=f"c{i}", value=float(v), stderr=0.1)
        for i, v in enumerate(rng.normal(shift, 1, size=count))
    ]


def ledger_row(stage, label, phase, items, seconds):
    return LedgerRow(
        stage=stage, label=label, phase=phase, items=items, seconds=seconds, device_seconds=0.0,
        peak_bytes=0, forward_passes=0, backward_passes=0, tokens=0, api_calls=0,
        api_prompt_tokens=0, api_completion_tokens=0, money=0.0, attempts=1,
    )  # fmt: skip


def all_rows():
    rows = [row("exact", "noise_floor", 1e-3, n=1), row("exact", "same_pairs", 1.0)]
    for arm, rate in (("none", 50.0), ("exact", 55.0), ("random", 49.0)):
        rows += [row(arm, "win_rate", rate, 2), row(arm, "grade", rate / 10, 0.2)]
        rows += [row(arm, f"mt_bench/grade/{c}", 5.0, 1) for c in ("math", "stem", "coding")]
        rows += [row(arm, f"positive_share/{p}", p, 0.1) for p in (0.25, 0.5, 1.0)]
        for part, share in (("win", 50.0), ("tie", 30.0), ("lose", 20.0)):
            rows += [row(arm, f"head_to_head/{part}", share, 5, number=n) for n in (1, 2)]
    for p in (0.5, 1.0):
        rows.append(row("exact", f"midway/{p}/win_rate", 50 + p, 2))
    for name, seconds in (("exact", 4.0), ("trak", 0.5), ("random", 1e-5)):
        rows += [row(name, "seconds_per_candidate", seconds), row(name, "prepare_seconds", 9.0)]
        rows.append(row(name, "passes_per_candidate", 3.0))
        rows += [row(name, "spearman", 0.5, 0.1), row(name, "break_even_candidates", 40.0, 9)]
        rows += [row(name, metric, 0.5, 0.1) for metric in ("sign_agreement", "best_worst")]
        rows += [row(name, f"horizon_{k}/spearman", 0.9 / k, 0.05) for k in (1, 2, 4)]
        rows += [row(name, f"gain_{part}", 0.1, 0.05) for part in ("bottom", "middle", "top")]
        rows += [row(name, f"removal_{p}/heldout_loss", 2.0, 0.1) for p in (10, 50)]
        rows += [row(name, "auc", 0.7, 0.1), row(name, "written_length", 9.0, 2)]
    for share in (0, 25, 100):
        rows.append(row(f"{share}% useful", "heldout_loss", 2 - share / 100, 0.1))
    for confidence in (0.6, 0.9):
        for name in ("error_rate", "stated_error_rate", "saving"):
            for kind in ("real", "drawn", "close", "pairs"):
                rows.append(row(f"adaptive@{confidence}", f"{name}_{kind}", 1 - confidence, 0.01))
    return rows


def everything():
    """A made-up run that holds the numbers of every figure but that of other students."""
    words = ["write poem", "write story", "explain theory", "give"]
    outcomes = {
        arm: [
            Outcome(metric=metric, item=f"i{i}", value=float(i + k), category=words[i % 4])
            for metric in ("root_verb", "instruction_tokens", "response_tokens", "win")
            for i in range(20)
        ]
        for k, arm in enumerate(("none", "exact", "random"))
    }
    rng = np.random.default_rng(0)
    outcomes["exact"] += [
        Outcome(metric=f"midway/{p}/influence", item=f"c{i}", value=float(v), category=f"g{i // 4}")
        for p in (0, 0.5, 1)
        for i, v in enumerate(rng.normal(p, 1, size=24))
    ]
    names = ("exact", "corrected", "clip", "trak")
    return RunResult(
        config=CONFIG,
        provenance={"device": "made-up device"},
        rows=all_rows(),
        ledger=[ledger_row("generate", "round1", "instructions", 8, 2.0)],
        outcomes=outcomes,
        scores={name: scores(i, shift=0.2 * i) for i, name in enumerate(names)},
        groups={f"c{i}": f"g{i // 4}" for i in range(24)},
    )


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    write(root, "made_up", "r0", everything())
    return load_study("made_up", root)


@pytest.fixture(scope="module")
def other_students(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    rows = [
        ResultRow(
            study="transfer", run="r0", estimator=arm, round=1, seed=0, metric="win_rate",
            value=50.0 + len(arm + model), low=45.0, high=60.0, stderr=None, n=12, unit="%",
            student=model,
        )
        for arm in ("exact", "none")
        for model in ("", "tiny-b")
    ]  # fmt: skip
    config = {**CONFIG, "student": {"name": "tiny-a"}}
    others = {"tiny-b": {}}
    result = RunResult(config=config, provenance={}, rows=rows, others=others)
    write(root, "transfer", "r0", result)
    return load_study("transfer", root)


@pytest.fixture
def pages(monkeypatch):
    """The figures that are written, to look at."""
    seen = []

    def savefig(figure, path, **rest):
        if str(path).endswith(".png"):
            seen.append((figure, overlaps(figure)))

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", savefig)
    return seen


def digests(files):
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


@pytest.mark.parametrize("name", catalogue.DRAWINGS)
def test_each_is_drawn_with_no_text_over_another_and_a_caption(
    name, made_up, other_students, pages, tmp_path
):
    draw = catalogue.DRAWINGS[name]
    study = other_students if name == "fig_other_students" else made_up
    files = draw(study, tmp_path)
    assert files
    assert not [pair for _, found in pages for pair in found]
    for file in files:
        if file.suffix == ".pdf":
            caption = file.with_suffix(".txt").read_text()
            assert "n = " in caption or "n: " in caption
            assert ("made-up device" in caption) == (study is made_up)


LONG = "adam_jvp(preconditioner=adam_after, clipped=true, method=materialised)"


@pytest.mark.parametrize("name", sorted({*catalogue.DRAWINGS} - {"fig_other_students"}))
def test_a_method_named_with_its_options_finds_room(name, pages, tmp_path):
    short = everything()
    named = {"trak": LONG, "random": f"flipped:{LONG}"}
    long = replace(
        short,
        rows=[replace(r, estimator=named.get(r.estimator, r.estimator)) for r in short.rows],
        outcomes={named.get(arm, arm): own for arm, own in short.outcomes.items()},
        scores={named.get(arm, arm): own for arm, own in short.scores.items()},
    )
    write(tmp_path, "made_up", "r0", long)
    assert catalogue.DRAWINGS[name](load_study("made_up", tmp_path), tmp_path / "out")
    assert not [pair for _, found in pages for pair in found]


@pytest.mark.parametrize("name", ["tab_published", "fig_cost_quality", "fig_influence_shift"])
def test_the_same_records_give_the_same_bytes(name, made_up, tmp_path):
    files = catalogue.DRAWINGS[name](made_up, tmp_path / "one")
    assert digests(files) == digests(catalogue.DRAWINGS[name](made_up, tmp_path / "two"))
    assert not [file for file in files if b"CreationDate" in file.read_bytes()]


@pytest.mark.parametrize("name", catalogue.DRAWINGS)
def test_a_study_without_the_numbers_is_told_what_is_missing(name, tmp_path):
    write(tmp_path, "made_up", "r0", RunResult(config={}, provenance={}, rows=[row("a", "x", 1.0)]))
    with pytest.raises(MissingError, match=r"expected .+ in study 'made_up'"):
        catalogue.DRAWINGS[name](load_study("made_up", tmp_path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("study", COMMITTED)
def test_what_is_committed_is_drawn_with_no_text_over_another(study, pages, tmp_path):
    drawn = catalogue.draw_all([(load_study(study, ROOT / "results"), tmp_path)])
    assert drawn.files
    assert not [pair for _, found in pages for pair in found]


def test_every_module_stands_in_the_catalogue():
    modules = {
        path.stem for kind in ("fig", "tab") for path in (ROOT / "paper_figs").glob(f"{kind}_*.py")
    }
    assert modules == set(catalogue.DRAWINGS)


def test_the_command_draws_several_studies_and_says_what_is_missing(tmp_path):
    place = tmp_path / "out"
    done = influbench("figures", "prediction", "adaptive_oracle", "--out", str(place), cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert (place / "prediction" / "fig_removal.pdf").is_file()
    assert (place / "adaptive_oracle" / "fig_calibration.png").is_file()
    missing = [line for line in done.stdout.splitlines() if line.startswith("not drawn: ")]
    assert any("fig_horizon: needs agreement" in line for line in missing)
    assert not any("fig_removal" in line or "fig_calibration" in line for line in missing)


def test_a_file_of_somebody_else_is_not_overwritten(made_up, tmp_path):
    for name, file in (("fig_removal", "fig_removal.png"), ("tab_published", "table_1.md")):
        (tmp_path / file).write_text("mine")
        with pytest.raises(UserError, match="influbench did not write"):
            catalogue.DRAWINGS[name](made_up, tmp_path)
        assert (tmp_path / file).read_text() == "mine"


def test_drawing_and_reports_load_no_torch():
    code = (
        "import sys, importlib, pathlib\n"
        "import paper_figs.catalogue\n"
        "for path in pathlib.Path('influbench/report').rglob('*.py'):\n"
        "    name = '.'.join(path.with_suffix('').parts).removesuffix('.__init__')\n"
        "    importlib.import_module(name)\n"
        "loaded = {'torch', 'transformers', 'trl', 'peft'} & sys.modules.keys()\n"
        "assert not loaded, sorted(loaded)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_published_numbers_stand_beside_ours(made_up, tmp_path):
    tab_published.draw(made_up, tmp_path)
    written = (tmp_path / "table_1.md").read_text()
    assert "| Montessori it.2 | 56.82 | 60.23 | 7.092 | 63.44 |" in written
    assert "| ours: exact (1 seed) | - | 55.00 [53.00, 57.00] | 5.50 [5.30, 5.70] |" in written
    assert "not comparable" in written
    times = (tmp_path / "table_7.tex").read_text()
    assert r"generate an instruction & 0.372 & 0.372 & 0.25 (n = 8) \\" in times


def test_the_ranking_has_a_panel_a_place_and_puts_the_best_first(pages, tmp_path):
    for bits, rule, sign in (("3", "sign", 1), ("4", "sign", 2), ("4", "all", 2), ("8", "all", -1)):
        for seed in (0, 1):
            run = f"b{bits}{rule}s{seed}"
            rows = [
                replace(row(name, metric, value), study="places", run=run, seed=seed)
                for name, far, passes in (("loss", 0.2, 1.0), ("trak", 0.4, 4.0), ("bm25", 0.3, 0))
                for metric, value in (("spearman", sign * far), ("passes_per_candidate", passes))
            ]
            rows.append(replace(rows[1], estimator="length"))  # the same of all: no correlation
            model, rules = {"name": f"tiny:bits={bits}"}, {"rule": rule}
            settings = {"student": model, "preferences": rules, "seed": seed}
            result = RunResult(config=settings, provenance={}, rows=rows)
            write(tmp_path, "places", run, result)
    files = catalogue.DRAWINGS["fig_ranking"](load_study("places", tmp_path), tmp_path / "out")
    ((figure, found),) = pages
    assert not found
    *places, costs = figure.axes
    # A rule that makes pairs changes no correlation: no panel of its own.
    assert [axes.get_title("left") for axes in places] == [f"tiny:bits={bits}" for bits in "348"]
    assert [text.get_text() for text in places[0].get_yticklabels()] == ["trak", "bm25", "loss"]
    drawn = [[float(line.get_xdata()[0]) for line in axes.lines[1:]] for axes in places]
    assert drawn == [[0.4, 0.3, 0.2], [0.8, 0.6, 0.4], [-0.4, -0.3, -0.2]]
    assert [bar.get_width() for bar in costs.patches] == [4.0, 0.0, 1.0]
    assert "without a correlation: length" in files[0].with_suffix(".txt").read_text()
