"""A session: one ledger, one budget, one archive for all stages of a command."""

import json

import pytest

from influbench.config import Config
from influbench.store import Stage, Store
from influbench.store.budget import Budget
from influbench.store.session import Session


class Price(Config):
    """What a stage costs."""

    money: float = 0.0


def spend(cfg, salt, *, work, budget=None):
    with work.meter.phase("judge", items=1) as phase:
        phase.add_api(1, 10, 2, cfg.money)
    if budget is not None:
        budget.spent += cfg.money
    work.meta["salt"] = salt


ASK = Stage("ask", 1, spend)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def test_a_stage_met_twice_is_paid_once(store):
    session = Session(store)
    for _ in range(2):
        session.run(ASK, Price(money=3.0), "a", label="one")
    assert sum(row.money for row in session.ledger) == 3.0
    assert [row.label for row in session.ledger if row.phase == "judge"] == ["one"]


def test_equal_inputs_under_another_label_are_another_entry(store):
    session = Session(store)
    one, two = (session.run(ASK, Price(), "a", label=label) for label in ("one", "two"))
    assert one.key == two.key
    assert one.path != two.path
    assert [row.label for row in session.ledger if row.phase == "judge"] == ["one", "two"]


def test_the_money_of_a_cached_entry_counts_against_the_budget_once(store):
    Session(store).run(ASK, Price(money=3.0), "a")
    session = Session(store, Budget(5.0))
    for _ in range(2):
        session.ask(ASK, Price(money=3.0), "a")
    assert session.budget.spent == 3.0
    assert not session.budget.reserve("next", 2.5)
    session.ask(ASK, Price(money=1.0), "b")
    session.run(ASK, Price(money=1.0), "b")  # cached now, and its money is known already
    assert session.budget.spent == 4.0


def test_parts_share_budget_and_store_but_not_ledger_and_notes(store):
    whole = Session(store, Budget(5.0))
    first, second = whole.part(), whole.part()
    first.ask(ASK, Price(money=2.0), "a")
    second.ask(ASK, Price(money=2.0), "a")
    second.note("weak judge")
    assert whole.budget.spent == 2.0
    assert sum(row.money for row in second.ledger) == 2.0
    assert (first.notes, second.notes, whole.ledger) == ([], ["weak judge"], [])


def test_notes_are_kept_once_and_in_order(store):
    session = Session(store)
    for text in ("b", "", "a", "b"):
        session.note(text)
    assert session.notes == ["b", "a"]


def test_judgements_lie_in_the_store(store):
    assert Session(store).archive == store.root / "judgements.jsonl"
    manifest = Session(store).run(ASK, Price(), "a").path / "manifest.json"
    assert json.loads(manifest.read_text())["meta"] == {"salt": "a"}
