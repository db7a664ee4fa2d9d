"""Arms of a study on the tiny model: controls, the base student, other students beside it."""

import itertools

import pytest

from influbench import data
from influbench.data.records import Candidate, Outcome, Score
from influbench.errors import UserError
from influbench.files import read_jsonl
from influbench.loop import arms, pipeline, publish
from influbench.loop import reading as presets
from influbench.loop.pipeline import Run
from influbench.loop.plan import lengths, tasks
from influbench.report.notes import lines_of
from influbench.results import load_study, write
from influbench.results.differences import differences
from influbench.store import Store
from influbench.store.session import Session
from paper_figs import fig_other_students

PROBED, OTHER = "tiny:bits=2", "tiny:1"
SMALL = [
    *("scoring.compare=[]", "sizes.candidates=8", "sizes.warmup=4", "data.num_questions=1"),
    f"student.name={PROBED}",
]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store"))


def run(store: Store, *settings: str) -> Run:
    cfg = presets.load_run("tiny", [*SMALL, *settings])
    return pipeline.run(cfg, Session(store))


def outcomes(marks: pipeline.Marks) -> list[Outcome]:
    """The probed student's."""
    return marks[PROBED].outcomes()


@pytest.fixture(scope="module")
def length(store):
    return run(store, "scoring.estimator=length")


@pytest.mark.parametrize(
    ("name", "way", "estimator"),
    [
        ("none", "untaught", ""),
        ("bm25", "teach", "bm25"),
        ("flipped:first_order", "flipped", "first_order"),
        ("flipped:my.module:Method", "flipped", "my.module:Method"),
        ("my.module:Method", "teach", "my.module:Method"),
        ("bootstrap:loss", "bootstrap", "loss"),
        ("llm2llm", "bootstrap", "llm2llm"),
    ],
)
def test_an_arms_name_says_how_it_teaches_and_by_whose_scores(name, way, estimator):
    assert arms.parse(name) == arms.Arm(name, way, estimator)


@pytest.mark.parametrize("arm", ["loss", "flipped:loss", "bootstrap:loss", "filter:loss"])
def test_options_are_of_the_method_that_the_arm_teaches_by(arm):
    cfg = presets.load_run("tiny", [f"scoring.estimator={arm}", "scoring.options.prefer=high"])
    assert cfg.scoring.options_of("loss") == {"prefer": "high"}
    assert cfg.scoring.options_of("exact") == {}
    assert cfg.scoring.options_of(arm) == ({"prefer": "high"} if arm == "loss" else {})


@pytest.mark.parametrize("name", ["flipped:", "bootstrap:none"])
def test_a_control_without_an_estimator_is_refused(name):
    with pytest.raises(UserError, match="expected an estimator after"):
        arms.parse(name)


def test_flipped_pairs_are_the_estimators_own_the_other_way_round(store, length):
    other = run(store, "scoring.estimator=flipped:length")
    ours, theirs = length.rounds[0].pairs, other.rounds[0].pairs
    assert ours
    for pair, mirror in zip(ours, theirs, strict=True):
        assert (pair.chosen, pair.chosen_ids) == (mirror.rejected, mirror.rejected_ids)
        assert (pair.rejected_id, pair.margin) == (mirror.chosen_id, -mirror.margin)
        assert pair.chosen_ids != pair.rejected_ids
    assert outcomes(other.rounds[0].marks) != outcomes(length.rounds[0].marks)


def test_the_base_student_stands_beside_the_arms_with_all_of_their_marks(length):
    rows = publish.rows(length, "s", "r")
    metrics = {
        name: {row.metric for row in rows if row.estimator == name} for name in ("base", "length")
    }
    marks = {"heldout_loss", "heldout_loss_change", "reference_loss", "win_rate", "grade"}
    assert marks <= metrics["base"]
    assert marks <= metrics["length"]
    losses = {row.estimator: row.value for row in rows if row.metric == "heldout_loss"}
    assert losses["base"] not in (losses["none"], losses["length"])


def test_the_base_student_is_the_same_in_every_arm_of_a_seed(store, length):
    other = run(store, "scoring.estimator=none")
    assert outcomes(other.base)
    found, expected = (
        [o for o in outcomes(r.base) if o.metric.endswith("_loss")] for r in (other, length)
    )
    assert found == expected


def test_bootstrap_writes_after_the_best_candidates_and_teaches_nothing(store):
    found = run(store, "scoring.estimator=bootstrap:length")
    (turn,) = found.rounds
    assert not turn.pairs
    assert not any(row.stage == "dpo" for row in found.ledger)
    best = sorted(turn.scores["length"], key=lambda score: -score.value)[:2]
    (entry,) = store.root.glob("generate-training-bootstrap*")
    written = read_jsonl(entry / "candidates.jsonl", Candidate)
    assert written
    assert {c.group for c in written} <= {f"{score.id}#0" for score in best}


def test_what_bootstrap_found_is_what_the_next_round_is_written_after(store):
    found = run(store, "scoring.estimator=bootstrap:length", "rounds=2")
    first, second = found.rounds
    best = sorted(first.scores["length"], key=lambda score: -score.value)[:2]
    assert {c.group.partition("#")[0] for c in second.candidates} <= {score.id for score in best}


def test_llm2llm_writes_every_round_after_what_the_student_found_hardest(store):
    found = run(store, "scoring.estimator=llm2llm", "rounds=3")
    assert not any(row.stage == "dpo" for row in found.ledger)
    assert not found.rounds[0].candidates[0].group.startswith("round")
    for before, turn in itertools.pairwise(found.rounds):
        hardest = sorted(before.scores["llm2llm"], key=lambda score: -score.value)[:2]
        shown = {c.group.partition("#")[0] for c in turn.candidates}
        assert shown <= {score.id for score in hardest}
    easiest = (
        run(store, "scoring.estimator=none", "scoring.compare=[loss]").rounds[0].scores["loss"]
    )
    assert [-score.value for score in easiest] == pytest.approx(
        [score.value for score in found.rounds[0].scores["llm2llm"]]
    )
    rows = publish.rows(found, "s", "r")
    own = [r for r in rows if (r.estimator, r.metric) == ("llm2llm", "heldout_loss")]
    assert [row.round for row in own] == [1, 2, 3]
    assert len({row.value for row in own}) == 3
    trained = [row.label for row in found.ledger if (row.stage, row.phase) == ("sft", "train")]
    assert trained == ["none", *["llm2llm"] * 3]


def test_filter_learns_the_best_candidates_and_writes_nothing(store):
    found = run(store, "scoring.estimator=filter:length")
    (turn,) = found.rounds
    assert not any(row.label == "training-filter:length" for row in found.ledger)
    assert not turn.pairs
    assert found.trained[PROBED]["filter:length"]["examples"] == 4
    assert outcomes(turn.marks)
    with pytest.raises(UserError, match=r"at least 9 candidates .* got 8"):
        run(store, "scoring.estimator=filter:length", "sizes.training=9")


def test_an_arm_is_scored_with_the_options_that_are_set(store):
    filtered, option = "scoring.estimator=filter:loss", "scoring.options.prefer=high"
    (plain,), (told,) = (run(store, filtered, *more).rounds for more in ((), (option,)))
    scores = [[score.value for score in turn.scores["loss"]] for turn in (plain, told)]
    assert scores[1] == pytest.approx([-value for value in scores[0]])
    note = "scoring.options are not used: arm 'none' teaches by no method"
    assert note in run(store, "scoring.estimator=none", option).notes


def test_all_arms_learn_as_many_response_tokens(store):
    asked = ["sft.response_tokens=40", "sizes.training=6"]
    for arm in ("none", "length", "flipped:length"):
        found = run(store, *asked, f"scoring.estimator={arm}")
        told = found.trained[PROBED][arm]
        assert 40 - 17 <= told["response_tokens"] <= 40
        assert told["examples"] < 6
        rows = publish.rows(found, "s", "r")
        published = {r.metric: r.value for r in rows if r.estimator == arm}
        assert published["training_tokens"] == told["response_tokens"]
        assert published["training_pairs"] == told["examples"]
        assert not any("every arm should learn" in note for note in found.notes)
    short = run(store, "sft.response_tokens=4000", "scoring.estimator=none")
    assert any("of the 4000 that every arm should learn" in note for note in short.notes)


def test_the_best_candidates_come_best_first():
    made = [
        Candidate(
            id=f"c{n}", group="g", teacher_prompt="p", raw_completion="r", instruction=f"i{n}",
            response="r",
        )
        for n in range(5)
    ]  # fmt: skip
    scores = [Score(id=f"c{n}", value=float(v)) for n, v in enumerate([0, 3, -1, 5, 1])]
    assert [s.id for s in arms.best(made, scores, 3)] == ["c3", "c1", "c4"]
    assert [s.instruction for s in arms.as_seeds(made[:2])] == ["i0", "i1"]


def test_a_teacher_that_is_its_own_student_is_warned_about(store):
    same = run(store, "scoring.estimator=none", "student.name=tiny")
    assert any("teacher and student are the same model" in note for note in same.notes)
    assert not any("same model" in note for note in run(store, "scoring.estimator=none").notes)


@pytest.fixture(scope="module")
def beside(store):
    """The same arm with another student beside the probed one."""
    return run(store, "scoring.estimator=length", f"students=[{{name: {OTHER}}}]")


def test_other_students_learn_the_very_rows_that_the_probed_one_learns(store, length, beside):
    assert beside.rounds[0].pairs == length.rounds[0].pairs
    assert outcomes(beside.rounds[0].marks) == outcomes(length.rounds[0].marks)
    assert list(beside.rounds[0].marks) == [PROBED, OTHER]
    assert {one: set(found) for one, found in beside.trained.items()} == {
        PROBED: {"none", "length"},
        OTHER: {"none", "length"},
    }
    for arm, told in beside.trained[OTHER].items():
        assert told["response_tokens"] == beside.trained[PROBED][arm]["response_tokens"]
        assert told["loss"] != beside.trained[PROBED][arm]["loss"]
    assert not [row for row in beside.ledger if row.stage == "score" and OTHER in row.label]


def test_each_student_is_compared_with_its_own_base_and_its_own_untaught(beside):
    rows = publish.rows(beside, "s", "r")
    loss = {(r.estimator, r.student): r.value for r in rows if r.metric == "heldout_loss"}
    assert set(loss) == {(arm, who) for arm in ("base", "none", "length") for who in ("", OTHER)}
    assert len(set(loss.values())) == len(loss)
    for row in rows:
        if row.metric == "heldout_loss_change":
            gap = loss[row.estimator, row.student] - loss["none", row.student]
            assert row.value == pytest.approx(gap)
    assert {r.student for r in rows if r.metric in ("pairs", "prepare_seconds")} == {""}


def test_the_table_has_a_row_a_student_and_says_which_was_probed(beside, length, tmp_path):
    write(tmp_path, "s", "beside", publish.result(beside, "s", "beside"))
    study = load_study("s", tmp_path)
    found = study.estimates[study.estimates["metric"] == "heldout_loss"]
    probed = f"{PROBED} (probed)"
    assert set(zip(found["estimator"], found["student"], strict=True)) == {
        (arm, who) for arm in ("base", "none", "length") for who in (probed, OTHER)
    }
    assert set(study.outcomes["student"]) == {probed, OTHER}
    gaps = differences(study)
    assert set(gaps[gaps["metric"] == "heldout_loss"]["label"]) >= {
        f"length ({probed})",
        f"length ({OTHER})",
    }
    assert any("the one that was probed" in line for line in lines_of(study))
    assert fig_other_students.draw(study, tmp_path)
    write(tmp_path, "t", "alone", publish.result(length, "t", "alone"))
    assert load_study("t", tmp_path).axes == ()


def test_a_student_that_is_named_twice_is_refused(store):
    with pytest.raises(UserError, match="students: expected every model once"):
        run(store, "scoring.estimator=none", f"students=[{{name: {PROBED}}}]")


def test_the_plan_counts_every_student(store):
    told = [*SMALL, "scoring.estimator=length", f"students=[{{name: {OTHER}}}]"]
    cfg = presets.load_run("tiny", told)
    found = tasks(cfg, lengths.lengths(cfg.data, cfg.generation))
    trained = [(task.label, task.model) for task in found if task.stage == "sft"]
    assert trained == [
        ("none", ""), (f"none {OTHER}", OTHER), ("length", ""), (f"length {OTHER}", OTHER)
    ]  # fmt: skip
    assert sum(task.stage == "losses" for task in found) == 6


RESPONSES = ["generation.responses_per_instruction=4", "dpo.target=response"]


def test_response_pairs_are_of_two_responses_to_one_instruction(store, length):
    found = run(store, "scoring.estimator=length", *RESPONSES)
    (turn,) = found.rounds
    by_id = {c.id: c for c in turn.candidates}
    assert len({c.instruction for c in turn.candidates}) == 2
    assert len(turn.pairs) == 2  # the best against the worst of each
    scores = {s.id: s.value for s in turn.scores["length"]}
    for pair in turn.pairs:
        chosen, rejected = by_id[pair.chosen_id], by_id[pair.rejected_id]
        assert chosen.instruction == rejected.instruction
        assert pair.prompt == chosen.response_prompt
        assert (pair.chosen, pair.chosen_ids) == (chosen.raw_response, chosen.response_ids)
        assert (pair.rejected, pair.rejected_ids) == (rejected.raw_response, rejected.response_ids)
        assert scores[chosen.id] > scores[rejected.id]
    assert outcomes(turn.marks) != outcomes(length.rounds[0].marks)
    # Only candidates have several: what students learn is written as in every other arm.
    for entry in store.root.glob("generate-training-*"):
        written = read_jsonl(entry / "candidates.jsonl", Candidate)
        assert not any(c.response_prompt for c in written)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (RESPONSES[1], r"dpo.target = response: expected generation.responses_per_instr.* got 1"),
        (RESPONSES[0], r"responses_per_instruction = 4: expected 1 with dpo.target = instruction"),
    ],
)
def test_pairs_are_of_instructions_or_of_responses(store, setting, said):
    with pytest.raises(UserError, match=said):
        run(store, "scoring.estimator=length", setting)


def test_seed_prompts_come_from_a_file_of_ones_own(store, tmp_path):
    file = tmp_path / "own.csv"
    file.write_text("id,instruction\na,Sort 3 1 2.\nb,Add 2 and 2.\n")
    found = run(store, "scoring.estimator=length", f"data.seeds={file}")
    seeds = data.load_seed_prompts(found.config.data)
    assert len(seeds) == 2
    assert {c.group.partition("#")[0] for c in found.rounds[0].candidates} == {s.id for s in seeds}
    for candidate in found.rounds[0].candidates:
        assert any(seed.instruction in candidate.teacher_prompt for seed in seeds)
