"""Numbers on pages are those of ``results/``, and the call is the one written down before."""

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest
from scipy import stats

from influbench.data.records import LedgerRow, Outcome, ResultRow, Score
from influbench.results import RunResult, load_study, write
from influbench.results.manifest import write_manifest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs" / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make(root: Path, seeds: int, gap: float, lacking: int = 0) -> None:
    """A study in which ``first_order`` is ``gap`` above ``random``, and a little noise."""
    runs = [f"{arm},seed={s}" for arm in ("random", "first_order") for s in range(seeds)]
    for run in runs:
        arm, seed = run.split(",seed=")
        noise = 0.001 * int(seed)
        value = 2.0 + (gap + noise if arm == "first_order" else 0.0)
        row = ResultRow(
            study="s", run=run, estimator=arm, round=1, seed=int(seed), metric="heldout_loss",
            value=value, stderr=0.01, n=4, unit="nats/token",
        )  # fmt: skip
        items = [
            Outcome(metric="heldout_loss", item=f"p{i}", value=value + i - 1.5) for i in range(4)
        ]
        config = {"scoring": {"estimator": arm}, "seed": int(seed)}
        result = RunResult(config=config, provenance={}, rows=[row], outcomes={arm: items})
        write(root, "s", run, result)
    grid = [*runs, *(f"trak,seed={s}" for s in range(lacking))]
    write_manifest(root, "s", {run: {"seed": 0} for run in grid})


def make_cells(root: Path, study: str, values: dict[str, list[dict[str, float]]]) -> None:
    """Agreement of each arm, one seed a list entry, at each value of the one axis ``place``."""
    manifest = {}
    for place, seeds in values.items():
        for seed, arms in enumerate(seeds):
            run = f"none,seed={seed},place={place}"
            config = {"scoring": {"estimator": "none"}, "place": place, "seed": seed}
            rows = [
                ResultRow(
                    study=study, run=run, estimator=arm, round=1, seed=seed, metric="spearman",
                    value=value, low=value - 0.05, high=value + 0.05, stderr=None, n=8, unit="",
                )
                for arm, value in {"ceiling": 0.97, **arms}.items()
            ]  # fmt: skip
            write(root, study, run, RunResult(config=config, provenance={}, rows=rows))
            manifest[run] = config
    write_manifest(root, study, manifest)


def page(kind: str, told: str) -> str:
    return f"# Title\n\n<!-- {kind} s: {told} -->\nstale\n<!-- end -->\n"


@pytest.mark.parametrize(
    ("seeds", "gap", "said"),
    [
        (3, -0.2, "**Yes, as far as this study goes.** `first_order` minus `random` is -0.199"),
        (3, 0.2, "**Not shown by this study.** `first_order` minus `random` is 0.201"),
        (3, -0.001, "no difference shown"),
        (2, -0.2, "**Not answered: too few seeds.**"),
    ],
)
def test_the_answer_is_the_call_that_was_written_down_before(tables, tmp_path, seeds, gap, said):
    make(tmp_path, seeds, gap)
    found = tables.filled(page("answer", "first_order"), tmp_path)
    assert said in " ".join(found.split())
    assert found.startswith("# Title\n\n<!-- answer s: first_order -->\n")
    assert "stale" not in found
    assert tables.filled(found, tmp_path) == found


def test_a_study_that_is_not_whole_answers_nothing(tables, tmp_path):
    assert "Not answered yet. No results yet" in tables.filled(page("answer", "x"), tmp_path)
    make(tmp_path, 3, -0.2, lacking=2)
    found = tables.filled(page("answer", "first_order"), tmp_path)
    assert "Not answered yet: 6 of 8 runs are there." in found
    assert "2 of 8 runs lack." in tables.filled(page("study", "heldout_loss"), tmp_path)


def test_a_table_has_the_scatter_over_seeds_and_the_differences_their_intervals(tables, tmp_path):
    make(tmp_path, 3, -0.2)
    table = tables.filled(page("study", "heldout_loss, win_rate"), tmp_path)
    assert "| arm | heldout_loss (nats/token) | s.d. over seeds | seeds |" in table
    (row,) = [line for line in table.splitlines() if line.startswith("| `first_order`")]
    assert row.startswith("| `first_order` | 1.801 [")
    assert row.endswith("] | 0.001 | 3 |")
    assert "Not in these records: `win_rate`." in table
    gaps = tables.filled(page("differences", "heldout_loss"), tmp_path)
    (row,) = [line for line in gaps.splitlines() if line.startswith("| `first_order`")]
    assert row.startswith("| `first_order` | heldout_loss (nats/token) | `random` | -0.199 [-0.2")
    assert row.endswith("] | 3 | 4 |")


FIRST = {"first_order": 0.9, "trak": 0.5, "random": 0.0}


@pytest.mark.parametrize(
    ("second", "held", "row"),
    [
        (FIRST, 2, "| `b` | 1.00 | 3 | – |"),
        (
            {"first_order": 0.1, "trak": 0.5, "random": 0.9},
            1,
            "| `b` | -1.00 | 3 | `first_order`, ",
        ),
    ],
)
def test_the_ranking_is_called_held_cell_by_cell_and_what_moved_is_named(
    tables, tmp_path, second, held, row
):
    make_cells(tmp_path, "first", {"a": [FIRST]})
    make_cells(tmp_path, "s", {"a": [FIRST] * 3, "b": [second] * 3})
    found = tables.filled(page("ranking", "spearman, first"), tmp_path)
    assert f"**The ranking holds in {held} of 2 cells**" in found
    assert row in found


def test_arms_stand_in_one_row_with_a_column_a_cell_best_first(tables, tmp_path):
    make_cells(tmp_path, "s", {"a": [FIRST] * 3, "b": [{**FIRST, "trak": 0.2}] * 3})
    lines = tables.filled(page("cells", "spearman"), tmp_path).splitlines()
    assert "| spearman of | `a` | `b` |" in lines
    rows = [line for line in lines if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == ["ceiling", "first_order", "trak", "random"]
    assert rows[2].startswith("| `trak` | 0.50 [")
    assert "| 0.20 [" in rows[2]
    assert "Seeds: 3." in lines


def test_pages_hold_the_numbers_of_the_results(tables):
    for path in tables.PAGES:
        text = path.read_text()
        assert tables.BLOCK.search(text)
        assert text == tables.filled(text, ROOT / "results"), "run python docs/tables.py"


def test_seeds_that_share_no_items_are_compared_seed_by_seed(tables, tmp_path):
    make(tmp_path, seeds=3, gap=0.5)
    page = "<!-- by_seed s: heldout_loss -->\nold\n<!-- end -->"
    said = tables.filled(page, tmp_path)
    # Gaps of 0.500, 0.501, 0.502: t of two degrees of freedom is 4.303, the error 0.001 / sqrt 3.
    assert "| `first_order` | heldout_loss (nats/token) | `random` | 0.501 [0.499, 0.503] |" in said
    assert "0.500, 0.501, 0.502" in said


def test_a_rule_is_compared_with_itself_flipped_at_each_place_of_an_axis(tables, tmp_path):
    manifest = {}
    for rate, gap in ((1e-4, 0.0), (1e-3, 9.0)):
        for seed in range(3):
            run = f"seed={seed},rate={rate}"
            config = {"seed": seed, "rate": rate}
            arms = {"random": 20.0, "length": 20.0 + gap + seed, "flipped:length": 20.0 - gap}
            rows = [
                ResultRow(
                    study="s", run=run, estimator=arm, round=1, seed=seed, metric="written_length",
                    value=value, stderr=1.0, n=9, unit="words",
                )
                for arm, value in arms.items()
            ]  # fmt: skip
            write(tmp_path, "s", run, RunResult(config=config, provenance={}, rows=rows))
            manifest[run] = config
    write_manifest(tmp_path, "s", manifest)
    said = tables.filled(page("by_seed", "written_length"), tmp_path)
    head = "| `length` | written_length (words), rate"
    assert (
        f"{head} 0.0001 | `flipped:length` | 1.000 [-1.484, 3.484] | 0.000, 1.000, 2.000 |" in said
    )
    assert f"{head} 0.001 | `flipped:length` | 19.000 [16.516, 21.484]" in said


def test_stages_are_an_arms_own_on_the_device_that_made_them(tables, tmp_path):
    def row(stage, label, seconds, peak):
        return LedgerRow(
            stage=stage, label=label, phase="run", items=1, seconds=seconds, device_seconds=0.0,
            peak_bytes=peak, forward_passes=0, backward_passes=0, tokens=0, api_calls=0,
            api_prompt_tokens=0, api_completion_tokens=0, money=0.0, attempts=1,
        )  # fmt: skip

    for seed, seconds in enumerate((2.0, 4.0, 9.0)):
        config = {"scoring": {"estimator": "random"}, "seed": seed}
        shared = row("sft", "none", 100.0, 10**10)
        own = [row("sft", "random", seconds, 10**9), row("sft", "random", 1.0, 2 * 10**9)]
        taught = replace(row("dpo", "random", 7.0, 10**9), device="NVIDIA H200")
        result = RunResult(
            config=config, provenance={"device": "cpu"}, rows=[], ledger=[shared, taught, *own]
        )
        write(tmp_path, "s", f"random,seed={seed}", result)
    said = tables.filled(page("stages", "sft, dpo, grade"), tmp_path)
    assert "| cpu | sft | 3 | 5.0 | 10.0 | 2.0 |" in said
    assert "| NVIDIA H200 | dpo | 3 | 7.0 | 7.0 | 1.0 |" in said
    assert "grade |" not in said


def first_edition() -> dict[str, dict[str, str]]:
    """What the records of the first edition say of each method, as pages print it."""
    found: dict[str, dict[str, str]] = {}
    for study in ("agreement_toolkits", "agreement_first"):
        for row in load_study(study, ROOT / "results").estimates.to_dict("records"):
            interval = f" [{row['low']:.2f}, {row['high']:.2f}]" if row["low"] == row["low"] else ""
            digits = 0 if "passes" in row["metric"] else 2
            told = f"{row['value']:,.{digits}f}{interval}"
            found.setdefault(row["estimator"], {})[row["metric"]] = told.replace("-0.00", "0.00")
    return found


def test_the_first_edition_is_told_as_its_records_have_it():
    records = first_edition()
    text = (ROOT / "docs/results.md").read_text().replace("*", "")
    told = text.split("### First")[-1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in told.splitlines() if line.startswith("| `")]
    names = (
        "spearman", "spearman_within", "prepare_passes", "passes_per_candidate",
        "seconds_per_candidate",
    )  # fmt: skip
    assert len(rows) >= 25
    for first, *cells in rows:
        method = records[first.split("`")[1]]
        if "itself" in first:
            method = {**method, **{n: records["ceiling"][n] for n in names[:2]}}
        assert cells == [
            "–" if cell == "–" else method[name] for cell, name in zip(cells, names, strict=True)
        ], first


def test_the_readmes_table_is_what_the_records_say():
    """Columns by student, references and epochs of warm-up; an interval in the first."""
    places = [
        ("smollm2-135m-instruct", "starter", 1),
        ("smollm2-135m-instruct", "starter", 8),
        ("smollm2-135m-instruct", "starter_short", 1),
        ("smollm2-135m-instruct:bits=3", "starter", 1),
    ]
    study = load_study("agreement", ROOT / "results")
    axes = ("student.name", "data.reference", "warmup.epochs")
    assert study.axes == axes
    assert not study.missing
    numbers = study.estimates.to_dict("records")

    def shown(method, metric, place):
        (row,) = [
            row
            for row in numbers
            if (row["estimator"], row["metric"]) == (method, metric)
            and all(row[axis] in (None, value) for axis, value in zip(axes, place, strict=True))
        ]
        if metric != "spearman":
            return f"{row['value']:.0f}"
        known = row["low"] == row["low"] and place == places[0]
        interval = f" [{row['low']:.2f}, {row['high']:.2f}]" if known else ""
        return f"{row['value']:.2f}{interval}"

    text = (ROOT / "README.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    rows = [row for row in rows if len(row) == len(places) + 2]
    assert len(rows) >= 8
    for first, *cells in rows:
        method = first.strip("`")
        want = [shown(method, "spearman", place) for place in places]
        assert cells == [*want, shown(method, "passes_per_candidate", places[0])], method
    assert f"`exact`: {shown('exact', 'passes_per_candidate', places[0])}," in text


def test_a_ranking_is_over_the_methods_that_both_have_and_open_while_runs_lack(tables, tmp_path):
    first = {"exact": 1.0, "less": 0.9, "trak": 0.5, "bm25": 0.2, "length": -0.4, "mates": 0.3}
    now = {"exact": 1.0, "less": 0.82, "trak": -0.5, "bm25": 0.3, "length": -0.3, "ica": 0.7}
    make_cells(tmp_path, "first", {"a": [first]})
    make_cells(tmp_path, "s", {"a": [now] * 3, "b": [now] * 3})
    shared = ["less", "trak", "bm25", "length"]
    rho = cast(Any, stats.spearmanr([first[m] for m in shared], [now[m] for m in shared])).statistic
    said = tables.filled(page("ranking", "spearman, first"), tmp_path)
    assert rho == pytest.approx(0.4)
    assert "| `a` | 0.40 | 4 | `less`" not in said  # 0.9 against 0.82, each give or take 0.05
    assert "| `a` | 0.40 | 4 | `trak` |" in said
    assert "\n**The ranking holds in 0 of 2 cells**" in said
    (tmp_path / "s" / "none,seed=2,place=b.json").unlink()
    said = " ".join(tables.filled(page("ranking", "spearman, first"), tmp_path).split())
    assert "Not answered yet: 5 of 6 runs are there. So far: **The ranking holds in" in said


def test_a_number_that_fewer_seeds_have_says_so(tables, tmp_path):
    """Such as a break-even of methods that never pay in some seed: a mean of the others is none."""
    for seed in range(3):
        blank = ResultRow(
            study="s", run=f"seed={seed}", estimator="loss", round=1, seed=seed, metric="lds",
            value=0.1 * seed, stderr=None, n=64, unit="",
        )  # fmt: skip
        rows = [blank]
        if seed == 1:
            rows.append(replace(blank, metric="break_even_ratio", value=2.5))
        result = RunResult(config={"seed": seed}, provenance={}, rows=rows)
        write(tmp_path, "s", f"seed={seed}", result)
    said = tables.filled(page("study", "lds, break_even_ratio"), tmp_path)
    assert "| 2.500 (1 of 3 seeds) |" in said


def test_clipping_divides_each_score_by_the_norm_where_it_is_above_the_clip(tables, tmp_path):
    exact, norms = [1.0, 2.0, 3.0, 4.0], [0.5, 1.0, 2.0, 50.0]
    own = [1.0, 2.0, 12.0, 100.0]  # clipped 1, 2, 6, 2 where the clip is 1
    for seed in range(3):
        scores = {
            name: [Score(id=f"c{i}", value=value) for i, value in enumerate(values)]
            for name, values in (("exact", exact), ("grad_norm", norms), ("less", own))
        }
        for clip in (1.0, None):
            config = {"seed": seed, "warmup": {"clip_norm": clip}}
            result = RunResult(config=config, provenance={}, rows=[], scores=scores)
            write(tmp_path, "s", f"seed={seed},clip={clip}", result)
    said = tables.filled(page("clipped", "less"), tmp_path)
    cut = cast(Any, stats.spearmanr(exact, [1.0, 2.0, 6.0, 2.0])).statistic
    (line,) = [line for line in said.splitlines() if line.startswith("| `less`")]
    assert f" 1.00 → {cut:.2f} " in line.replace("[", " [")
    assert line.count("1.00 → 1.00") == 1  # where nothing clips
    assert "6 of 24 gradients are clipped: they are 0.0 to 50.0 times" in said
