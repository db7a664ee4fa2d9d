"""The HTML page: what stands in it, where its texts come from, who may write over what."""

import json
import re
from pathlib import Path

import pytest
from command import influbench

from influbench.config import Config
from influbench.data.records import Candidate, Example, ResultRow, Score
from influbench.errors import UserError
from influbench.files import write_jsonl
from influbench.judging import Request, rubric
from influbench.judging.archive import Archive, judgement
from influbench.report import page
from influbench.report.page import answer, charts
from influbench.report.page.candidates import sets_of
from influbench.report.page.texts import Texts
from influbench.results import RunResult, load_study, write
from influbench.results.score_files import ScoreFile
from influbench.results.score_files import write as write_scores
from influbench.store import Stage, Store

pytest.importorskip("plotly")
ROOT = Path(__file__).parents[2]
HOSTILE = "</script><script>alert(1)</script><!--<b>"


class Nothing(Config):
    """A stage without settings."""


def row(estimator, metric, value, low=None, high=None, seed=0, n=8):
    return ResultRow(
        study="s", run=f"a,seed={seed}", estimator=estimator, round=1, seed=seed, metric=metric,
        value=value, low=low, high=high, stderr=None, n=n, unit="",
    )  # fmt: skip


def candidates(count=4, text="Answer"):
    return [
        Candidate(
            id=f"c-{i}", group=f"g{i // 2}", teacher_prompt=f"prompt {i // 2}",
            raw_completion=f"{i}", instruction=f"Question {i}", response=f"{text} {i}",
        )
        for i in range(count)
    ]  # fmt: skip


def scores(values):
    return [Score(id=f"c-{i}", value=float(value)) for i, value in enumerate(values)]


def stored(root, made, values, estimator="exact"):
    """A store in which ``made`` were generated, and scored by ``estimator``."""
    store = Store(root)
    store.run(
        Stage("generate", 1, lambda cfg, salt, work: work.write("candidates", made)),
        Nothing(),
        str(made),
    )
    store.run(
        Stage("score", 1, lambda cfg, given, work: work.write("scores", scores(values))),
        Nothing(),
        [one.example() for one in made],
        label=estimator,
    )


def study(root, values=(2, -1, -3, 4), rows=(), seed=0, run=None, **config):
    settings = {"seed": seed, "scoring": {"estimator": "exact"}, "preferences": {}, **config}
    name = run or f"a,seed={seed}"
    found = RunResult(
        config=settings,
        provenance={"device": "cpu", "command": ["influbench", "run"], "commit": "0" * 40},
        rows=[*rows],
        scores={"exact": scores(values)},
        groups={f"c-{i}": f"g{i // 2}" for i in range(len(values))},
        notes=["a note <b>in words</b>"],
    )
    write(root, "s", name, found)
    return load_study("s", root)


def data_of(html):
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    assert found
    return json.loads(found[1])


@pytest.mark.parametrize("name", sorted(p.name for p in (ROOT / "results").iterdir() if p.is_dir()))
def test_every_study_that_is_committed_has_a_page(name):
    html = page.render(page.page_of([name], ROOT / "results"))
    assert html.startswith("<!doctype html>")
    assert f"<h1>{name}</h1>" in html
    assert 'http-equiv="Content-Security-Policy" content="default-src \'none\'' in html


def test_the_same_records_give_the_same_bytes():
    made = [page.render(page.page_of(["quickstart"], ROOT / "results")) for _ in range(2)]
    assert made[0] == made[1]


def test_texts_are_those_that_the_scores_were_measured_on(tmp_path):
    """Every seed of a study has candidates of the same ids: the numbers tell which are which."""
    stored(tmp_path / "store", candidates(text="Other"), [0, 1, 2, 3])
    stored(tmp_path / "store", candidates(text="Right"), [2, -1, -3, 4])
    (own,) = sets_of(study(tmp_path / "r"), Texts(tmp_path / "store"))
    assert own.texts is not None
    assert [e.response for e in own.texts] == ["Right 0", "Right 1", "Right 2", "Right 3"]


def test_without_their_store_candidates_have_no_texts(tmp_path):
    stored(tmp_path / "store", candidates(), [0, 1, 2, 3])
    (own,) = sets_of(study(tmp_path / "r"), Texts(tmp_path / "store"))
    assert own.texts is None


def test_chosen_and_rejected_are_the_pairs_that_taught(tmp_path):
    stored(tmp_path / "store", candidates(), [2, -1, -3, 4])
    found = study(tmp_path / "r", rows=[row("exact", "pairs", 2)])
    (own,) = sets_of(found, Texts(tmp_path / "store"))
    assert own.pairs == {"exact": [("c-0", "c-1", 3.0), ("c-3", "c-2", 7.0)]}


def test_pairs_are_left_out_where_they_are_not_as_many_as_taught(tmp_path):
    stored(tmp_path / "store", candidates(), [2, -1, -3, 4])
    found = study(tmp_path / "r", rows=[row("exact", "pairs", 5)])
    (own,) = sets_of(found, Texts(tmp_path / "store"))
    assert own.pairs == {}


def test_what_a_judge_wrote_stands_with_its_candidate(tmp_path):
    stored(tmp_path / "store", candidates(), [2, -1, -3, 4])
    asked = Request(id="x", messages=rubric.grading(rubric.QUALITY, candidates()[1].example()))
    archive = Archive(tmp_path / "store" / "judgements.jsonl")
    archive.add([judgement("openai:judge", asked, text="Dull. 2")])
    (own,) = sets_of(study(tmp_path / "r"), Texts(tmp_path / "store"))
    assert own.words == {"c-1": [("openai:judge", "Dull. 2")]}


def test_runs_on_the_same_candidates_are_one_set_and_other_seeds_another(tmp_path):
    study(tmp_path)
    study(tmp_path, run="b,seed=0", scoring={"estimator": "random"})
    found = study(tmp_path, values=(9, 8, 7, 6), seed=1)
    assert [own.name for own in sets_of(found, Texts())] == ["s: a,seed=0", "s: a,seed=1"]


def test_text_from_models_ends_no_script_and_is_no_markup(tmp_path):
    write_jsonl(
        tmp_path / "pairs.jsonl",
        [Example(id=f"c-{i}", instruction=HOSTILE, response=HOSTILE) for i in range(2)],
    )
    write_scores(
        tmp_path / "m.jsonl", ScoreFile(name="m", scores=scores([1, 2]), groups={"c-0": HOSTILE})
    )
    found = page.page_of(
        [str(tmp_path / "m.jsonl")], texts=Texts(candidates=tmp_path / "pairs.jsonl")
    )
    html = page.render(found)
    assert "alert(1)</script>" not in html
    assert data_of(html)["sets"][0]["texts"][0][:2] == [HOSTILE, HOSTILE]


def test_notes_are_escaped(tmp_path):
    study(tmp_path)
    html = page.render(page.page_of(["s"], tmp_path))
    assert "a note &lt;b&gt;in words&lt;/b&gt;" in html


def test_the_front_holds_what_nothing_cheaper_matches(tmp_path):
    numbers = [("a", 1.0, 0.5), ("b", 2.0, 0.4), ("c", 3.0, 0.9), ("d", 0.5, 0.1)]
    rows = [row(name, "seconds_per_candidate", cost) for name, cost, _ in numbers]
    rows += [row(name, "spearman", value, value - 0.1, 1.0) for name, _, value in numbers]
    found = charts.points(study(tmp_path, rows=rows).estimates, "spearman")
    assert [(p["label"], p["front"]) for p in found] == [
        ("d", True), ("a", True), ("b", False), ("c", True),
    ]  # fmt: skip


def test_the_front_of_a_loss_is_the_lowest(tmp_path):
    rows = [row("a", "seconds_per_candidate", 1.0), row("b", "seconds_per_candidate", 2.0)]
    rows += [row("a", "heldout_loss", 2.0), row("b", "heldout_loss", 2.5)]
    found = charts.points(study(tmp_path, rows=rows).estimates, "heldout_loss")
    assert [p["front"] for p in found] == [True, False]


def test_the_answer_names_the_best_with_its_interval_and_who_overlaps(tmp_path):
    rows = [
        row("a", "spearman", 0.9, 0.8, 1.0),
        row("b", "spearman", 0.7, 0.5, 0.85),
        row("c", "spearman", 0.1, 0.0, 0.2),
    ]
    (first,) = answer.of_methods(study(tmp_path, rows=rows).estimates)
    assert first.text == (
        "Of 3 methods a is first by Spearman correlation with exact: 0.9 [0.8, 1]; the intervals "
        "of b overlap with its own."
    )


def test_the_answer_does_not_praise_what_may_be_chance(tmp_path):
    rows = [row("a", "spearman", 0.3, -0.1, 0.6)]
    (first,) = answer.of_methods(study(tmp_path, rows=rows).estimates)
    assert "chance is not ruled out" in first.text


def test_the_matrix_leaves_out_what_a_constant_method_has_no_rank_for(tmp_path):
    for name, values in {"m": [1, 2, 3], "same": [4, 5, 6], "flat": [0, 0, 0]}.items():
        write_scores(
            tmp_path / f"{name}.jsonl", ScoreFile(name=name, scores=scores(values), groups={})
        )
    files = [str(tmp_path / f"{name}.jsonl") for name in ("m", "same", "flat")]
    (own,) = page.page_of(files).sets
    found = charts.agreement(own)
    assert found is not None
    table = dict(zip(found["names"], found["values"], strict=True))
    place = found["names"].index
    assert table["m"][place("same")] == 1.0
    assert table["m"][place("flat")] is None


def test_a_file_of_other_candidates_is_refused(tmp_path):
    write_jsonl(tmp_path / "pairs.jsonl", [Example(id="x", instruction="a", response="b")])
    write_scores(tmp_path / "m.jsonl", ScoreFile(name="m", scores=scores([1, 2]), groups={}))
    with pytest.raises(UserError, match="such as 'c-0', got ids such as 'x'"):
        page.page_of([str(tmp_path / "m.jsonl")], texts=Texts(candidates=tmp_path / "pairs.jsonl"))


def test_the_command_writes_one_file_and_says_what_it_lacks(tmp_path):
    study(tmp_path / "results")
    done = influbench("report", "s", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "s.html").stat().st_size > 2**20
    assert "no texts of s: a,seed=0" in done.stdout
    again = influbench("report", "s", cwd=tmp_path)
    assert again.returncode == 0, again.stderr


def test_the_command_writes_over_nobody_elses_page(tmp_path):
    study(tmp_path / "results")
    (tmp_path / "s.html").write_text("<h1>mine</h1>")
    done = influbench("report", "s", cwd=tmp_path)
    assert done.returncode == 2
    assert "did not write" in done.stderr
    assert (tmp_path / "s.html").read_text() == "<h1>mine</h1>"
