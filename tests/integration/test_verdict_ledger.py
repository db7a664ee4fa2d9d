"""What a judge cost is booked once, however its stage ended."""

from dataclasses import replace

import pytest

from influbench.data.records import Answer, Question
from influbench.evaluation.suite import VerdictConfig
from influbench.evaluation.suites import alpaca_eval
from influbench.judging import JudgeConfig
from influbench.store import Store
from influbench.store.session import Session


def test_a_stage_that_dies_after_its_last_judgement_is_not_booked_twice(tmp_path):
    questions = [Question(id=f"q{n}", category="", turns=(f"Name {n}.",)) for n in range(3)]
    ours, theirs = (
        [Answer(id=q.id, category="", turns=q.turns, responses=(text,)) for q in questions]
        for text in ("Yes.", "No, I would not.")
    )

    def dying(*inputs, work):
        alpaca_eval.STAGE.function(*inputs, work=work)
        raise RuntimeError("the disk is gone")

    store = Store(tmp_path)
    judge = JudgeConfig(kind="local", model="tiny")
    session = Session(store)
    cfg = VerdictConfig(judge=judge, archive=session.archive)
    with pytest.raises(RuntimeError, match="gone"):
        store.run(replace(alpaca_eval.STAGE, function=dying), cfg, questions, ours, theirs)
    entry = store.run(alpaca_eval.STAGE, cfg, questions, ours, theirs)
    row = next(row for row in entry.ledger() if row.phase == "judge")
    assert row.api_calls == row.api_completion_tokens == 6
    lines = session.archive.read_text().splitlines()
    assert len(lines) == 6
