"""Methods at one price: closed forms of what each does with a budget of passes."""

import dataclasses

import pytest

from influbench import scoring, testing
from influbench.config import from_settings
from influbench.errors import UserError
from influbench.estimator import registry
from influbench.scoring.settings import MethodConfig, ScoringSettings
from influbench.scoring.spending import Counts, spend
from influbench.store import Store
from influbench.store.session import Session

COUNTS = Counts(candidates=100, references=64, warmup=50)


@pytest.mark.parametrize(
    ("name", "budget", "references", "options", "cost"),
    [
        # (2m + 100 (3 + m)) / 100 = 3 + 1.02 m
        ("exact", 20, 16, {}, 19.32),
        ("exact", 1000, 64, {}, 68.28),
        # 3 + 0.03 m
        ("gradient_dot", 4, 33, {}, 3.99),
        # 1 + draws
        ("ica", 6, 64, {"draws": 5}, 6),
        # draws (1 + 0.64), an even number
        ("loss_covariance", 20, 64, {"draws": 12}, 19.68),
        # ((b + 2) 64 + 4 b) / 100 + 1 = 2.28 + 0.68 b
        ("mates", 20, 64, {"budget": 26}, 19.96),
        # Four exact scores at least, then references: 1.16 + 0.06 m
        ("mates", 2, 14, {"budget": 4}, 2.0),
        # (4 m + 50 (3 + 1)) / 100 + 3 + 1
        ("ensemble", 8, 50, {}, 8.0),
        # 3 m / 100 + (5 b) / 100 + 2, of 50 examples
        ("influence_distillation", 5, 64, {"budget": 21}, 4.97),
    ],
)
def test_the_largest_spend_within_the_budget(name, budget, references, options, cost):
    found = spend(name, {}, budget, COUNTS)
    assert (found.references, found.options) == (references, options)
    assert found.cost == pytest.approx(cost)
    if budget < 1000:
        assert found.note.startswith(f"{name}: {found.cost:.4g} of {budget} passes a candidate")
        assert f"{references} of 64 references" in found.note


@pytest.mark.parametrize(
    ("name", "budget", "why"),
    [
        ("bm25", 5, "it makes none"),
        ("judge", 5, "it makes none"),
        ("embedding", 5, "it makes none"),
        ("ensemble", 5, "costs 6.08 with 2 of 64"),
        ("grad_norm", 2, "costs 3 with 64 of 64"),
        ("exact", 5, "costs 5.04 with 2 of 64"),
        ("gradient_dot", 20, "costs 4.92 with 64 of 64 references, and has nothing to spend more"),
        ("mates", 60, "costs 36.28 with 64 of 64 references, budget = 50, and has nothing"),
    ],
)
def test_a_method_that_cannot_use_a_budget_says_why(name, budget, why):
    note = spend(name, {}, budget, COUNTS).note
    assert note.startswith(f"{name}: cannot use a budget of {budget} passes a candidate: ")
    assert why in note


def test_passes_and_requests_together_are_not_told_beforehand():
    note = spend("ensemble", {"members": ["judge", "loss"]}, 5, COUNTS).note
    assert "what it costs is not told beforehand" in note


@pytest.mark.parametrize("name", sorted(registry.available()))
@pytest.mark.parametrize("budget", [1.0, 3.5, 12.0, 80.0])
def test_every_method_keeps_to_the_budget_or_says_that_it_cannot(name, budget):
    found = spend(name, {}, budget, COUNTS)
    assert 2 <= found.references <= 64
    registry.build(name, found.options)
    if "cannot" not in found.note:
        assert found.cost is not None
        assert 0 < found.cost <= budget * (1 + 1e-9)


def test_options_that_were_given_stay():
    found = spend("exact", {"baseline": "before"}, 20, COUNTS)
    assert found.options == {"baseline": "before"}


def test_two_budgets_at_once_are_refused():
    given = {"budget.passes_per_candidate": 3, "budget.seconds": 2}
    with pytest.raises(UserError, match="not both"):
        from_settings(ScoringSettings, given, "test")


def scored(root, ref, name, objective="nll", **budget):
    settings = {"estimator": name, "device": "cpu", "objective": objective}
    settings |= {f"budget.{key}": value for key, value in budget.items()}
    method = from_settings(MethodConfig, settings, "test")
    session = Session(Store(root))
    candidates, references = testing.tiny_examples("c", 6), testing.tiny_examples("r", 8)
    references = [dataclasses.replace(e, rejected="No.") for e in references]
    return scoring.score_candidates(session, method, candidates, references, [], ref), session


def test_what_was_measured_is_what_was_planned(tmp_path, tiny_ref):
    """gradient_dot: 3 + 3m / 6, so that m = 4 references cost 5 of 5.4 passes."""
    found, session = scored(tmp_path, tiny_ref, "gradient_dot", passes_per_candidate=5.4)
    assert session.notes == ["gradient_dot: 5 of 5.4 passes a candidate, with 4 of 8 references"]
    assert found.facts["budget_used"] == pytest.approx(5 / 5.4)
    assert found.facts["references_used"] == 4
    whole, session = scored(tmp_path, tiny_ref, "gradient_dot")
    assert [s.value for s in whole.scores] != [s.value for s in found.scores]
    assert "budget_used" not in whole.facts
    assert not session.notes


def test_a_reference_of_dpo_is_two_examples_to_a_budget(tmp_path, tiny_ref):
    """gradient_dot: 3 + (3 + 2) 2m / 6, so that m = 3 references cost 8 of 8.5 passes."""
    found, session = scored(tmp_path, tiny_ref, "gradient_dot", "dpo", passes_per_candidate=8.5)
    assert session.notes == ["gradient_dot: 8 of 8.5 passes a candidate, with 3 of 8 references"]
    assert found.facts["budget_used"] == pytest.approx(8 / 8.5)


def test_a_method_without_passes_has_a_row_that_says_so(tmp_path, tiny_ref):
    found, session = scored(tmp_path, tiny_ref, "bm25", passes_per_candidate=3)
    assert found.facts["budget_used"] == 0
    assert "cannot use" in session.notes[0]


def test_seconds_are_passes_at_the_pace_measured_once(tmp_path, tiny_ref):
    found, session = scored(tmp_path, tiny_ref, "gradient_dot", seconds=1e-6)
    assert "cannot use" in session.notes[0]
    assert "with 2 of 8 references" in session.notes[0]
    assert found.facts["budget_used"] > 1
    again, later = scored(tmp_path, tiny_ref, "gradient_dot", seconds=1e-6)
    assert later.notes == session.notes
    assert [s.value for s in again.scores] == [s.value for s in found.scores]
    (pace,) = (row for row in later.ledger if row.stage == "pace" and row.phase == "run")
    assert pace.attempts == 1
