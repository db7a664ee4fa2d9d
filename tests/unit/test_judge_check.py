import json
from collections.abc import Callable, Sequence
from typing import Literal

import pytest

from influbench.errors import UserError
from influbench.evaluation import judge_check, recorded
from influbench.evaluation.recorded import Preference
from influbench.judging.protocol import Reply, Request, Usage


class Scripted:
    """A judge whose preference for the answer shown first is a function of the request."""

    name = "scripted"
    small = True
    note = "plumbing only"
    grading: Literal["probability", "text"] = "probability"
    usage = Usage()

    def __init__(self, first: Callable[[Request], float | None]) -> None:
        self.first = first

    def ask(self, requests: Sequence[Request]) -> list[Reply]:
        return [self._reply(self.first(request)) for request in requests]

    def _reply(self, first: float | None) -> Reply:
        chances = None if first is None else (first, 1 - first)
        return Reply(text="?", probabilities=chances, prompt_tokens=1, completion_tokens=1)


def pair(name: str, one: str, two: str, first: float) -> Preference:
    return Preference(id=name, instruction="say", output_1=one, output_2=two, first=first)


PAIRS = [
    pair("a", "long one", "x", 0.9),
    pair("b", "longer still", "y", 0.2),
    pair("c", "p", "q", 0.5),
]


def values(first: Callable[[Request], float | None]) -> dict[str, float]:
    outcomes = judge_check.check(PAIRS, Scripted(first))
    return {name: s.value for name, s in judge_check.summaries(outcomes).items()}


def test_a_judge_that_only_likes_length():
    numbers = values(lambda r: 0.8 if len(r.answers[0]) >= len(r.answers[1]) else 0.2)
    assert numbers["agreement"] == pytest.approx(50.0)
    assert numbers["longer"] == pytest.approx(80.0)
    assert numbers["recorded_longer"] == pytest.approx(55.0)
    # Equal lengths: the first shown is preferred in both orders.
    assert numbers["first"] == pytest.approx((50 + 50 + 80) / 3)
    assert numbers["consistent"] == pytest.approx(200 / 3)


def test_a_judge_that_only_likes_the_first_place():
    numbers = values(lambda r: 0.7)
    assert numbers["first"] == pytest.approx(70.0)
    assert numbers["consistent"] == 0.0
    assert numbers["agreement"] == 50.0


def test_a_silent_judge_and_the_line_that_is_printed():
    numbers = values(lambda r: None if r.answers[0] == "x" else 0.5)
    assert numbers["unparseable"] == pytest.approx(50 / 3)
    judge = Scripted(lambda r: 0.9 if r.answers[0] == "long one" else 0.1)
    line = judge_check.describe(judge.name, judge.note, judge_check.check(PAIRS, judge))
    assert "\n" not in line
    assert "of 2 pairs" in line
    assert line.endswith("plumbing only")
    mute = Scripted(lambda r: None)
    assert "names none in 100.0 ± 0.0 %" in judge_check.describe(
        mute.name, mute.note, judge_check.check(PAIRS, mute)
    )


def test_both_forms_of_file(tmp_path):
    path = tmp_path / "p.jsonl"
    rows = [
        {"instruction": "i", "output_1": "a", "output_2": "b", "preference": 1.25},
        {
            "conversations": [{"from": "human", "value": "hi"}],
            "chosen": {"from": "gpt", "value": "yes"},
            "rejected": {"from": "gpt", "value": "no"},
        },
        {"prompt": "i", "chosen": [{"role": "assistant", "content": "c"}], "rejected": "d"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second, third = recorded.read_preferences(path)
    assert (first.first, first.output_2) == (0.75, "b")
    assert (second.instruction, second.output_1, second.output_2) == ("hi", "yes", "no")
    assert (third.output_1, third.first) == ("c", 1.0)


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "i", "output_1": "a", "output_2": "b", "preference": 3},
        {"instruction": "i", "output_1": "a", "output_2": "b", "preference": None},
        {"instruction": "i", "chosen": "a"},
    ],
)
def test_a_bad_row_is_named(tmp_path, row):
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=r"p\.jsonl:1: expected"):
        recorded.read_preferences(path)
