"""A run that keeps its states on the way, from the loop to the figures of the paper."""

import hashlib
from pathlib import Path

import pytest

from influbench import data
from influbench.data.records import Candidate
from influbench.errors import UserError
from influbench.loop import learnt, pipeline, publish, sets
from influbench.loop.plan import lengths, tasks
from influbench.loop.reading import load_run
from influbench.models import resolve
from influbench.results import RunResult, load_study, write
from influbench.store import Store
from influbench.store.session import Session
from paper_figs import catalogue

KEEPS = ["keep_checkpoints=2", "scoring.compare=[]", "data.num_questions=1"]
KEEPS += ["sizes.candidates=16", "sizes.training=8"]
FIGURES = ("fig_teacher_progress", "fig_influence_shift", "fig_positive_share", "fig_lengths")


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("midway")
    session = Session(Store(folder / "store"))
    run = pipeline.run(load_run("tiny", KEEPS), session)
    write(folder / "results", "kept", "r0", publish.result(run, "kept", "r0"))
    return folder, run, session


def test_the_teacher_is_looked_at_from_before_its_training_to_its_end(ran):
    _, run, _ = ran
    (turn,) = run.rounds
    assert [part.share for part in turn.midway] == [0.0, 0.5, 1.0]
    start, middle, end = turn.midway
    assert start.candidates == turn.candidates
    assert start.scores == turn.scores["exact"]
    assert end.marks == turn.marks["tiny"]
    assert start.marks == run.baseline["tiny"]
    assert middle.candidates != end.candidates
    assert all(len(part.scores) == len(part.candidates) == 16 for part in turn.midway)


def test_its_numbers_are_rows_of_the_arm_and_no_arm_of_their_own(ran):
    folder, _, _ = ran
    study = load_study("kept", folder / "results")
    assert set(study.estimates["label"]) == {"base", "none", "exact"}
    columns = (study.estimates[name] for name in ("label", "metric", "value"))
    rows = {(label, metric): value for label, metric, value in zip(*columns, strict=True)}
    assert rows["exact", "midway/1/heldout_loss"] == rows["exact", "heldout_loss"]
    assert rows["exact", "midway/0/heldout_loss"] == rows["none", "heldout_loss"]
    assert ("exact", "midway/0.5/win_rate") in rows
    for arm in ("none", "exact"):
        for share in ("0.5", "1"):
            assert 0 <= rows[arm, f"positive_share/{share}"] <= 1


def test_the_arm_costs_what_it_costs_without_what_is_looked_at_beside(ran):
    folder, _, _ = ran
    rows = load_study("kept", folder / "results").rows
    passes = rows[(rows["estimator"] == "exact") & (rows["metric"] == "prepare_passes")]
    assert list(passes["value"]) == [2 * 4]


def test_the_figures_are_drawn_from_its_records_with_the_same_bytes_each_time(ran, tmp_path):
    folder, _, _ = ran
    study = load_study("kept", folder / "results")
    for name in FIGURES:
        one, two = (catalogue.DRAWINGS[name](study, tmp_path / n) for n in "ab")
        assert [file.suffix for file in one] == [".pdf", ".png"]
        assert [digest(file) for file in one] == [digest(file) for file in two]


def test_root_verbs_of_texts_are_recorded_and_drawn(ran, tmp_path):
    pytest.importorskip("textblob", reason="needs the extra 'words'")
    _, run, session = ran
    seeds = data.load_seed_prompts(run.config.data)
    rows = [
        Candidate(
            id=seed.id, group="", teacher_prompt="", raw_completion="",
            instruction=seed.instruction, response="Yes.",
        )
        for seed in seeds
    ]  # fmt: skip
    found = learnt.texts(session, rows, resolve("tiny"), "starter")
    verbs = [outcome for outcome in found if outcome.metric == "root_verb"]
    assert [verb.item for verb in verbs] == [seed.id for seed in seeds]
    assert sum(bool(verb.category) for verb in verbs) > len(verbs) / 2
    result = RunResult(config={}, provenance={}, rows=[], outcomes={"none": found})
    write(tmp_path, "words", "r0", result)
    study = load_study("words", tmp_path)
    one, two = (catalogue.DRAWINGS["fig_root_verbs"](study, tmp_path / n) for n in "ab")
    assert [digest(file) for file in one] == [digest(file) for file in two]


def test_a_plan_counts_the_stages_that_the_run_has(ran):
    _, run, session = ran
    known = lengths.lengths(run.config.data, run.config.generation)
    planned = {
        (task.stage, task.label.removesuffix(" instructions").removesuffix(" responses"))
        for task in tasks(run.config, known)
    }
    for stage in ("generate", "dpo", "sft", "score", "losses", "compare", "grade"):
        own = {label for s, label in ran_stages(session) if s == stage}
        assert own == {label for s, label in planned if s == stage}, stage


def test_a_run_that_ends_at_its_scores_keeps_nothing():
    cfg = load_run("tiny", [*KEEPS, "stop_after=scores", "scoring.estimator=none"])
    with pytest.raises(UserError, match="expected keep_checkpoints = 0, since no teacher"):
        sets.check(cfg)


def ran_stages(session: Session) -> list[tuple[str, str]]:
    return [(e.path.name.split("-")[0], label) for (_, label), e in session.entries.items()]


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
