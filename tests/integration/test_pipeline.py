"""The loop on the tiny model, in this process: rounds, the untaught baseline, data that leak."""

import dataclasses

import pytest

from influbench.data import load_reference
from influbench.errors import UserError
from influbench.loop import pipeline, preferences, publish
from influbench.loop import reading as presets
from influbench.store import Store
from influbench.store.session import Session

SMALL = ["scoring.compare=[]", "sizes.candidates=4", "sizes.warmup=4", "data.num_questions=1"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def two_rounds(store):
    cfg = presets.load_run("tiny", [*SMALL, "rounds=2", "dpo.learning_rate=0.01"])
    return pipeline.run(cfg, Session(store))


def test_the_second_round_is_written_by_the_taught_teacher(two_rounds):
    first, second = two_rounds.rounds
    assert [r.number for r in two_rounds.rounds] == [1, 2]
    assert {c.id for c in first.candidates}.isdisjoint(c.id for c in second.candidates)
    assert first.pairs
    assert second.pairs
    trained = [r for r in two_rounds.ledger if r.stage == "dpo" and r.phase == "train"]
    assert len(trained) == 2


def test_pairs_join_siblings_of_one_prompt_and_follow_the_scores(two_rounds):
    for turn in two_rounds.rounds:
        by_id = {c.id: c for c in turn.candidates}
        scores = {s.id: s.value for s in turn.scores["exact"]}
        for pair in turn.pairs:
            chosen, rejected = by_id[pair.chosen_id], by_id[pair.rejected_id]
            assert chosen.teacher_prompt == rejected.teacher_prompt == pair.prompt
            assert pair.chosen == chosen.raw_completion
            assert scores[chosen.id] > scores[rejected.id]
            assert pair.margin == pytest.approx(scores[chosen.id] - scores[rejected.id])


def test_every_round_is_published_with_its_own_numbers(two_rounds):
    rows = publish.rows(two_rounds, "s", "r")
    rounds = {(r.round, r.metric) for r in rows if r.estimator == "exact"}
    for metric in ("pairs", "win_rate", "heldout_loss", "heldout_loss_change", "prepare_passes"):
        assert {(1, metric), (2, metric)} <= rounds


def test_the_baseline_alone_needs_no_teaching(store):
    run = pipeline.run(presets.load_run("tiny", [*SMALL, "scoring.estimator=none"]), Session(store))
    assert run.rounds[-1].pairs == ()
    metrics = {o.metric for o in run.baseline["tiny"].outcomes()}
    assert metrics >= {"heldout_loss", "mt_bench/grade_1", "mt_bench/grade_2"}


def test_reference_and_evaluation_may_overlap_only_by_name(tmp_path):
    cfg = presets.load_run("tiny")
    data = cfg.data.model_copy(update={"reference": "starter", "evaluation": "starter"})
    reference = load_reference(data)
    file = tmp_path / "same.jsonl"
    file.write_text(
        "".join(
            f'{{"instruction": "{e.instruction.upper()}", "response": "x"}}\n'.replace("\n\n", "\n")
            for e in reference[:1]
        )
    )
    leaky = presets.load_run("tiny", [f"data.evaluation={file}", "data.num_evaluation=1"])
    with pytest.raises(UserError, match="leaky"):
        pipeline.check(leaky)
    named = leaky.model_copy(update={"data": leaky.data.model_copy(update={"leaky": True})})
    assert pipeline.check(named).overlap == 1


def test_a_run_of_a_leaky_set_says_so(two_rounds, store, monkeypatch):
    sets = dataclasses.replace(pipeline.check(two_rounds.config), overlap=2)
    monkeypatch.setattr(pipeline, "check", lambda cfg: sets)
    again = pipeline.run(two_rounds.config, Session(store))
    assert any("leaky: 2 reference examples" in note for note in again.notes)


def test_pairs_whose_margin_is_within_the_measured_noise_are_ties(two_rounds, store, monkeypatch):
    """The floor that the oracle's own batching gives is what the pair rule goes by."""
    (first, *_) = two_rounds.rounds
    floor = first.facts["exact"]["noise_floor"]
    assert floor > 0
    assert all(pair.margin > floor for turn in two_rounds.rounds for pair in turn.pairs)
    told = []

    def build_pairs(cfg, candidates, scores, measured_floor):
        told.append(measured_floor)
        return build(cfg, candidates, scores, 1e9)

    build = preferences.build_pairs
    monkeypatch.setattr(preferences, "build_pairs", build_pairs)
    with pytest.raises(UserError, match="expected at least one preference pair"):
        pipeline.run(two_rounds.config, Session(store))
    assert told == [floor]


def test_the_share_of_pairs_above_the_measured_floor_is_a_row_where_another_floor_holds(two_rounds):
    def shares(run):
        return [r.value for r in publish.rows(run, "s", "r") if r.metric == "pairs_above_floor"]

    assert shares(two_rounds) == [], "1 by construction: pairs at the measured floor are ties"
    preferences = two_rounds.config.preferences.model_copy(update={"noise_floor": 0.0})
    told = dataclasses.replace(
        two_rounds,
        config=two_rounds.config.model_copy(update={"preferences": preferences}),
        rounds=[
            dataclasses.replace(
                turn,
                pairs=[turn.pairs[0], dataclasses.replace(turn.pairs[0], margin=0.0)],
            )
            for turn in two_rounds.rounds
        ],
    )
    assert shares(told) == [0.5] * len(two_rounds.rounds)


def test_a_run_ends_with_the_suites_that_it_asks_for(store):
    asked = "evaluation.suites=[losses,alpaca_eval,head_to_head,mt_bench_pairwise]"
    cfg = presets.load_run("tiny", [*SMALL, asked, "data.num_evaluation=5"])
    rows = publish.rows(pipeline.run(cfg, Session(store)), "s", "r")
    taught = {row.metric for row in rows if row.estimator == "exact"}
    assert taught >= {
        *("win_rate", "alpaca_eval/win_rate_lc_length_only", "heldout_loss"),
        *("head_to_head/win", "head_to_head/tie", "mt_bench_pairwise/win_2"),
    }
    assert "grade" not in taught
    untaught = {row.metric for row in rows if row.estimator == "none"}
    assert "heldout_loss" in untaught
    assert not any(metric.startswith(("win", "head_to_head")) for metric in untaught)
