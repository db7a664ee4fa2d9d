"""Results on disk, read back as data frames, and the table made of them."""

import datetime
import io
import json
import math
import subprocess
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from influbench.data.records import Example, LedgerRow, Outcome, ResultRow, Score
from influbench.errors import UserError
from influbench.report.tables import cost_quality_tables, ledger_table, ranking_table, with_text
from influbench.results import RunResult, cost_rows, load_study, row_of, write
from influbench.results import provenance as origin
from influbench.results.publishing import publish
from influbench.results.result_file import read, write_if_new
from influbench.statistics.estimate import Estimate


def number(metric, value, estimator="trak", run="r0", seed=0, stderr=None):
    return ResultRow(
        study="s",
        run=run,
        estimator=estimator,
        round=1,
        seed=seed,
        metric=metric,
        value=value,
        stderr=stderr,
        n=10,
        unit="",
    )


def cost(phase, seconds, items, forward=0.0, backward=0.0, peak=0):
    return LedgerRow(
        stage="score",
        label="trak",
        phase=phase,
        items=items,
        seconds=seconds,
        device_seconds=0.0,
        peak_bytes=peak,
        forward_passes=forward,
        backward_passes=backward,
        tokens=0,
        api_calls=0,
        api_prompt_tokens=0,
        api_completion_tokens=0,
        money=0.0,
        attempts=1,
    )


def result(**changes):
    content = {
        "config": {"seed": 0, "name": "tiny"},
        "provenance": {"date": "2026-01-01"},
        "rows": [
            replace(number("spearman", 0.5, stderr=0.1), low=0.2, high=0.9),
            number("win_rate", 60.0, stderr=5.0),
            number("pairs", 12.0),
        ],
        "ledger": [cost("prepare", 2.0, 1), cost("score", 5.0, 10)],
        "outcomes": {"trak": [Outcome(metric="win_rate", item="q", value=1.0)]},
        "scores": {"trak": [Score(id="a", value=0.25, per_reference=(0.2, 0.3))]},
        "groups": {"a": "g"},
        "notes": ["leaky"],
    }
    return RunResult(**{**content, **changes})


def test_what_is_written_is_read_back(tmp_path):
    path = write(tmp_path, "s", "r0", result())
    assert path == tmp_path / "s" / "r0.json"
    study = load_study("s", tmp_path)
    assert load_study(path.parent).rows.equals(study.rows)
    assert study.runs["r0"].rows == result().rows
    assert (study.rows["low"][0], study.rows["high"][0]) == (0.2, 0.9)
    assert study.runs["r0"].ledger == result().ledger
    assert study.runs["r0"].config == {"seed": 0, "name": "tiny"}
    assert study.outcomes.to_dict("records") == [
        {"run": "r0", "estimator": "trak", "seed": 0, "metric": "win_rate", "item": "q",
         "value": 1.0, "category": ""}
    ]  # fmt: skip
    scored = study.scores.iloc[0]
    assert (scored["id"], scored["group"], scored["value"]) == ("a", "g", 0.25)
    assert math.isnan(scored["stderr"])
    assert study.ledger["seconds"].tolist() == [2.0, 5.0]
    assert study.notes == ("leaky",)


def test_intervals_stand_beside_their_number(tmp_path):
    write(tmp_path, "s", "r0", result())
    frame = load_study("s", tmp_path).rows.set_index("metric")
    assert frame.index.tolist() == ["spearman", "win_rate", "pairs"]
    assert frame.loc["spearman", ["low", "high"]].tolist() == [0.2, 0.9]
    assert frame.loc["win_rate", ["low", "high"]].tolist() == pytest.approx([50.2, 69.8])
    assert frame.loc["pairs", ["low", "high"]].isna().all()


def test_the_same_result_gives_the_same_bytes_apart_from_provenance(tmp_path):
    first = write(tmp_path / "1", "s", "r0", result()).read_text()
    assert write(tmp_path / "2", "s", "r0", result()).read_text() == first
    later = result(provenance={"date": "2027-01-01"})
    changed = write(tmp_path / "3", "s", "r0", later).read_text()
    assert changed != first
    assert changed.replace("2027", "2026") == first


def test_undefined_numbers_never_reach_the_file(tmp_path):
    rows = [number("spearman", math.nan), number("kendall", 0.5, stderr=math.nan)]
    rows.append(row_of(number("", 0.0), "win_rate", Estimate(value=50.0, n=4, stderr=math.nan)))
    path = write(tmp_path, "s", "r0", result(rows=rows))

    def refuse(constant):
        raise AssertionError(constant)

    json.loads(path.read_text(), parse_constant=refuse)
    assert load_study("s", tmp_path).rows["metric"].tolist() == ["kendall", "win_rate"]


def test_a_row_of_another_run_is_our_own_mistake(tmp_path):
    with pytest.raises(AssertionError, match="other"):
        write(tmp_path, "s", "r0", result(rows=[number("pairs", 1.0, run="other")]))


@pytest.mark.parametrize("name", ["a/b", "..", "", "a b"])
def test_names_must_be_file_names(tmp_path, name):
    with pytest.raises(UserError, match="run name"):
        write(tmp_path, "s", name, result())


def test_a_missing_study_lists_those_that_exist(tmp_path):
    write(tmp_path, "s", "r0", result())
    with pytest.raises(UserError, match=r"there are none; studies in .*: s$"):
        load_study("t", tmp_path)


def test_scores_beside_the_results_are_no_results(tmp_path):
    write(tmp_path, "s", "r0", result())
    (tmp_path / "s" / "mine.jsonl.meta.json").write_text('{\n "format": 1\n}\n')
    assert list(load_study("s", tmp_path).runs) == ["r0"]
    with pytest.raises(UserError, match="name or folder of a study, got an empty one"):
        load_study("", tmp_path)


def damaged(tmp_path, text):
    path = tmp_path / "s" / "r0.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


BROKEN = ["", "{", '{\n "fo', '{\n "format": 2', '{\n "format": 2, "study": "s", "run": "r0"}']


@pytest.mark.parametrize("text", BROKEN)
def test_a_damaged_file_is_named_with_what_helps(tmp_path, text):
    damaged(tmp_path, text)
    with pytest.raises(UserError, match=r"r0\.json is damaged.*again writes it anew.*or delete it"):
        load_study("s", tmp_path)


@pytest.mark.parametrize("text", BROKEN)
def test_the_same_run_again_replaces_a_damaged_file(tmp_path, text):
    path = damaged(tmp_path, text)
    write_if_new(tmp_path, "s", "r0", result())
    assert read(path)[2].rows == result().rows


@pytest.mark.parametrize("part", ["config", "provenance", "notes", "rows", "scores", "groups"])
@pytest.mark.parametrize("odd", [None, 3, "x", [None]])
def test_a_part_of_another_shape_is_damage(tmp_path, part, odd):
    path = write(tmp_path, "s", "r0", result())
    whole = path.read_bytes()
    raw = json.loads(whole)
    path.write_text(json.dumps(raw | {part: odd}, indent=1))
    with pytest.raises(UserError, match=r"r0\.json is damaged"):
        load_study("s", tmp_path)
    write_if_new(tmp_path, "s", "r0", result())
    assert path.read_bytes() == whole


@pytest.mark.parametrize("text", ["[]", "{}", '{"mine": 1}'])
def test_a_foreign_file_is_named_and_left_alone(tmp_path, text):
    path = damaged(tmp_path, text)
    with pytest.raises(UserError, match=r"r0\.json is no result of influbench.*move it"):
        load_study("s", tmp_path)
    with pytest.raises(UserError, match="did not write; move it"):
        write_if_new(tmp_path, "s", "r0", result())
    assert path.read_text() == text


def test_a_file_cut_short_anywhere_is_replaced(tmp_path):
    path = write(tmp_path, "s", "r0", result())
    whole = path.read_bytes()
    for end in range(0, len(whole) - 2, 97):
        path.write_bytes(whole[:end])
        write_if_new(tmp_path, "s", "r0", result())
        assert path.read_bytes() == whole


def test_a_file_of_a_later_version_is_neither_read_nor_replaced(tmp_path):
    path = damaged(tmp_path, '{\n "format": 99, "study": "s", "run": "r0"}')
    with pytest.raises(UserError, match="format 1 or 2, got 99"):
        load_study("s", tmp_path)
    with pytest.raises(UserError, match="format 1 or 2, got 99"):
        write_if_new(tmp_path, "s", "r0", result())
    assert "99" in path.read_text()


def as_format_1(path):
    """The file as the first version wrote it: bounds in rows of their own."""
    raw = json.loads(path.read_text())
    table = raw["rows"]
    low, high, metric, value, error = map(
        table["columns"].index, ("low", "high", "metric", "value", "stderr")
    )
    rows = []
    for row in table["data"]:
        rows.append(row)
        for end, place in (("low", low), ("high", high)):
            if row[place] is not None:
                bound = [*row]
                bound[metric], bound[value] = f"{row[metric]}:{end}", row[place]
                bound[error] = None
                rows.append(bound)
    keep = [i for i in range(len(table["columns"])) if i not in (low, high)]
    raw["rows"] = {
        "columns": [table["columns"][i] for i in keep],
        "data": [[row[i] for i in keep] for row in rows],
    }
    path.write_text(json.dumps({**raw, "format": 1}, indent=1))


def test_a_file_of_the_first_format_reads_as_the_second(tmp_path):
    path = write(tmp_path, "s", "r0", result())
    before = load_study("s", tmp_path)
    as_format_1(path)
    old = path.read_bytes()
    again = load_study("s", tmp_path)
    assert "spearman:low" in path.read_text()
    assert again.rows.equals(before.rows)
    assert again.estimates.equals(before.estimates)
    write_if_new(tmp_path, "s", "r0", result())  # the same numbers: the old file stays
    assert path.read_bytes() == old


@pytest.mark.parametrize("name", ["agreement_first", "quickstart", "planted", "adaptive_oracle"])
def test_committed_results_are_read(name):
    study = load_study(name, Path(__file__).parents[2] / "results")
    assert not study.rows["metric"].str.contains(":").any()
    assert any(low == low for low in study.estimates["low"])


def test_a_copied_file_does_not_silently_replace_a_run(tmp_path):
    path = write(tmp_path, "s", "r0", result())
    path.with_name("copy.json").write_bytes(path.read_bytes())
    with pytest.raises(UserError, match="run 'r0' in a file of another name"):
        load_study("s", tmp_path)


def test_cost_rows_by_hand():
    ledger = [
        cost("prepare", 2.0, 1, forward=4, backward=3, peak=7),
        cost("score", 5.0, 10, forward=20, backward=10, peak=9),
        cost("other", 100.0, 1, peak=1000),
    ]
    rows = {row.metric: row for row in cost_rows(ledger, number("", 0.0))}
    assert {metric: row.value for metric, row in rows.items()} == {
        "prepare_seconds": 2.0,
        "prepare_passes": 10.0,
        "seconds_per_candidate": 0.5,
        "passes_per_candidate": 4.0,
        "peak_bytes": 9.0,
    }
    assert rows["seconds_per_candidate"].n == 10
    assert rows["seconds_per_candidate"].estimator == "trak"


def test_cost_without_candidates_has_no_cost_per_candidate():
    rows = cost_rows([cost("prepare", 2.0, 1)], number("", 0.0))
    assert "seconds_per_candidate" not in {row.metric for row in rows}


def test_the_table_shows_a_dash_where_nothing_was_measured(tmp_path):
    rows = [*result().rows, number("win_rate", 50.0, estimator="none")]
    rows.append(number("spearman", 0.9, estimator="ceiling"))
    write(tmp_path, "s", "r0", result(rows=rows))
    console = Console(width=200)
    with console.capture() as capture:
        for table in cost_quality_tables(load_study("s", tmp_path), console.width):
            console.print(table)
    text = capture.get()
    lines = {words[0]: words[1:] for line in text.splitlines() if (words := line.split())}
    assert [word for word in lines if word in {"none", "trak", "ceiling"}] == [
        "none", "trak", "ceiling",
    ]  # fmt: skip
    assert lines["none"] == ["–", "–", "50.0"]  # agreement, pairs, win rate
    assert lines["trak"] == ["0.50", "12", "60.0"]
    assert "grade" not in text  # nobody was graded
    assert "[0.20, 0.90]" in text
    assert "[50.2, 69.8]" in text
    assert "leaky" in text


def shown(table):
    console = Console(width=120)
    with console.capture() as capture:
        console.print(table)
    return [line.split() for line in capture.get().splitlines() if line.strip()]


def test_the_ranking_shows_both_ends(tmp_path):
    frame = pd.DataFrame({"id": list("abcdef"), "score": [1.0, 6.0, 3.0, 4.0, 5.0, 2.0]})
    lines = shown(ranking_table(frame, {"share": 0.5}, ends=2))
    assert lines[-6:] == [
        ["1", "b", "6"], ["2", "e", "5"], ["…"], ["5", "f", "2"], ["6", "a", "1"], ["share", "0.5"],
    ]  # fmt: skip
    assert len(shown(ranking_table(frame, {}, ends=3))) == 3 + 6  # title, header, rule, all rows


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_ranking_shows_how_texts_begin_on_one_line(width):
    frame = pd.DataFrame({"id": ["round1-00001-2", "b"], "score": [0.5, -1.25]})
    told = [
        Example(id="b", instruction=text * 9, response="r" * 200) for text in ("words ", "漢字 ")
    ]
    frame = with_text(frame, told)
    out = Console(width=width, record=True, file=io.StringIO())
    out.print(ranking_table(frame, {}, width=width))
    lines = [text for text in out.export_text().splitlines() if text.strip()]
    assert len(lines) == 3 + 2  # title, header, rule, one line a candidate
    assert "words words" in lines[3]
    assert "漢字" in lines[4]


def test_the_ledger_table_counts_a_backward_as_two(tmp_path):
    lines = shown(ledger_table([cost("score", 5.0, 10, forward=20, backward=10, peak=2**21)]))
    assert lines[-1] == ["score", "trak", "score", "10", "5", "40", "0", "2", "–"]


def git(folder, *arguments):
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True)


def checkout(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    git(tmp_path, "init", "-q")
    return package


def test_commit_and_dirty_flag(tmp_path):
    package = checkout(tmp_path)
    assert origin.commit(package) == {"commit": None, "dirty": None}
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    clean = origin.commit(package)
    assert len(clean["commit"]) == 40
    assert clean["dirty"] is False
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "r.json").write_text("{}")
    assert origin.commit(package)["dirty"] is False
    (package / "new.py").write_text("")
    assert origin.commit(package)["dirty"] is True


def test_a_package_installed_into_another_project_claims_no_commit(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "own.txt").write_text("")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    package = tmp_path / "site-packages" / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    assert origin.commit(package) == {"commit": None, "dirty": None}


def test_outside_git_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert origin.commit(tmp_path) == {"commit": None, "dirty": None}


def test_provenance_says_where_and_when_and_nothing_private(monkeypatch):
    now = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    found = origin.provenance(now, device="cpu", threads=1)
    assert found["date"] == "2026-01-02T03:04:05+00:00"
    assert found["versions"]["influbench"]
    assert (found["device"], found["threads"]) == ("cpu", 1)
    assert set(found) == {
        "date", "command", "commit", "dirty", "python", "platform", "device", "threads", "versions",
    }  # fmt: skip


def test_a_result_names_the_devices_that_made_it_and_not_the_one_that_wrote_it(tmp_path):
    there, here = replace(cost("run", 1.0, 1), device="NVIDIA H200"), cost("run", 1.0, 1)
    for ledger, device in {
        (here,): "cpu",  # no row says: this machine
        (there, here): "NVIDIA H200",
        (there, replace(here, device="cpu"), there): "NVIDIA H200, cpu",
    }.items():
        found = publish({}, "cpu", [], result(ledger=ledger))
        assert found.provenance["device"] == device


def test_provenance_holds_the_command_without_the_users_folders(monkeypatch):
    home = str(Path.home())
    monkeypatch.setattr("sys.argv", [f"{home}/bin/influbench", "run", f"{home}/mine.yaml"])
    found = origin.provenance(datetime.datetime.now(datetime.UTC), device="cpu", threads=1)
    assert found["command"] == ["influbench", "run", "~/mine.yaml"]


def test_the_command_of_a_module_can_be_typed_again():
    run = ["/x/site/influbench/__main__.py", "sweep", "s.yaml"]
    assert origin.command(run) == ["influbench", "sweep", "s.yaml"]
    assert origin.command(["/x/bin/influbench", "run"]) == ["influbench", "run"]
