from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import pytest

from influbench.data.records import Answer, Outcome, Question
from influbench.errors import UserError
from influbench.evaluation.suites import head_to_head, mt_bench, mt_bench_pairwise
from influbench.judging.protocol import Reply, Request, Usage


class Scripted:
    """A judge that a function of the request answers, by text or by probabilities."""

    name = "scripted"
    small = False
    note = ""
    usage = Usage()

    def __init__(
        self,
        answer: Callable[[Request], str | Sequence[float]],
        grading: Literal["probability", "text"] = "text",
    ) -> None:
        self.answer = answer
        self.grading: Literal["probability", "text"] = grading
        self.requests: list[Request] = []

    def ask(self, requests: Sequence[Request]) -> list[Reply]:
        self.requests += requests
        return [reply(self.answer(request)) for request in requests]


def reply(said: str | Sequence[float]) -> Reply:
    text, chances = (said, None) if isinstance(said, str) else ("", tuple(said))
    return Reply(text=text, probabilities=chances, prompt_tokens=1, completion_tokens=1)


def question(name: str, category: str = "writing", reference=None) -> Question:
    turns = (f"{name} first?", f"{name} second?")
    return Question(id=name, category=category, turns=turns, reference=reference)


def answer(name: str, *responses: str) -> Answer:
    turns = (f"{name} first?", f"{name} second?")
    return Answer(id=name, category="", turns=turns, responses=responses or ("one", "two"))


def found(outcomes: list[Outcome]) -> dict[str, float]:
    return {o.metric: o.value for o in outcomes}


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ("Good. Rating: [[7]]", 7.0),
        ("Rating: [[2]], no: [[6.5]]", 6.5),
        ("Rating: [8]", 8.0),
        (" 9. ", 9.0),
        ("[[11]]", None),
        ("[[0]]", None),
        ("I give it 7 out of 10", None),
        ("", None),
    ],
)
def test_grades_in_text(text, grade):
    assert mt_bench.grade_of(reply(text)) == grade


def test_a_grade_from_probabilities_is_their_expectation():
    chances = [0.0] * 10
    chances[2], chances[9] = 0.25, 0.75
    judge = Scripted(lambda r: chances, "probability")
    numbers = found(mt_bench.grade([question("a")], [answer("a")], judge))
    assert numbers == {
        "grade_1": pytest.approx(0.25 * 3 + 0.75 * 10),
        "grade_2": pytest.approx(8.25),
        "unparseable": 0.0,
        "from_text": 0.0,
    }
    assert judge.requests[0].choices == (*"123456789", "10")


def test_each_turn_is_graded_on_the_conversation_so_far():
    judge = Scripted(lambda r: "[[4]]" if len(r.messages[1][1]) < 120 else "no idea")
    numbers = found(mt_bench.grade([question("a")], [answer("a")], judge))
    assert numbers == {"grade_1": 4.0, "unparseable": 0.5}
    first, second = (r.messages[1][1] for r in judge.requests)
    assert "second?" not in first
    assert (
        second.index("first?") < second.index("one") < second.index("second?") < second.index("two")
    )
    assert "last of the user's questions" in judge.requests[1].messages[0][1]
    assert judge.requests[1].answers == ("two",)
    assert judge.requests[0].choices == ()


def test_math_reasoning_and_coding_need_their_references():
    judge = Scripted(lambda r: "[[4]]")
    with pytest.raises(UserError, match=r"'a' \(math\): expected a reference answer"):
        mt_bench.grade([question("a", "math")], [answer("a")], judge)
    guided = question("a", "math", ("reference 1", "reference 2"))
    mt_bench.grade([guided], [answer("a")], judge)
    assert "reference 1" in judge.requests[0].messages[1][1]
    assert "reference 2" not in judge.requests[0].messages[1][1]
    assert "reference 2" in judge.requests[1].messages[1][1]
    mt_bench.grade([question("b", "writing", ("unused", "unused"))], [answer("b")], judge)
    assert "unused" not in judge.requests[2].messages[1][1]


def test_a_response_a_turn_is_expected():
    with pytest.raises(UserError, match="expected 2 responses"):
        mt_bench.grade([question("a")], [answer("a", "only one")], Scripted(lambda r: "[[1]]"))


def outcomes_of(grades: dict[str, list[float]], category: str = "") -> list[Outcome]:
    return [
        Outcome(metric=f"grade_{n}", item=item, value=value, category=category)
        for item, values in grades.items()
        for n, value in enumerate(values, 1)
    ]


def test_score_by_hand():
    outcomes = outcomes_of({"a": [2, 4], "b": [6, 8]}, "math") + outcomes_of({"c": [10, 6]}, "art")
    summary = mt_bench.score(outcomes)
    assert summary.value == pytest.approx(6.0)
    # Questions average 3, 7 and 8: their standard deviation is sqrt(7).
    assert summary.stderr == pytest.approx(np.sqrt(7 / 3))
    assert summary.n == 3
    assert mt_bench.score(outcomes, turn=2).value == pytest.approx(6.0)
    assert mt_bench.score(outcomes, turn=1).value == pytest.approx(6.0)
    radar = mt_bench.by_category(outcomes)
    assert {name: s.value for name, s in radar.items()} == {"art": 8.0, "math": 5.0}
    assert radar["art"].stderr is None


def test_the_average_is_over_turns_that_were_graded():
    assert mt_bench.score(outcomes_of({"a": [2, 4], "b": [9]})).value == pytest.approx(5.0)
    silent = [Outcome(metric="unparseable", item="a", value=1.0)]
    with pytest.raises(UserError, match="100%"):
        mt_bench.score(silent)


@pytest.mark.parametrize(
    ("straight", "swapped", "result", "disagreement", "first"),
    [
        ("A", "B", "win", 0, 0.5),
        ("B", "A", "lose", 0, 0.5),
        ("C", "C", "tie", 0, 0.5),
        ("A", "A", "tie", 1, 1.0),
        ("B", "B", "tie", 1, 0.0),
        ("A", "C", "tie", 1, 0.75),
    ],
)
def test_disagreement_between_orders_is_a_tie(straight, swapped, result, disagreement, first):
    def said(request: Request) -> str:
        return f"[[{straight if request.answers[0] == 'ours' else swapped}]]"

    numbers = found(
        head_to_head.compare(
            [question("a")], [answer("a", "ours", "")], [answer("a", "theirs", "")], Scripted(said)
        )
    )
    assert [r for r in head_to_head.RESULTS if numbers[r] == 1] == [result]
    assert numbers["disagreement"] == disagreement
    assert numbers["first"] == first


def test_verdicts_by_probability_and_without_one():
    assert head_to_head.parse(reply([0.2, 0.5, 0.3])) == "B"
    assert head_to_head.parse(reply("C")) == "C"
    assert head_to_head.parse(reply("Assistant A is good")) is None
    silent = Scripted(lambda r: "[[A]]" if r.answers[0] == "ours" else "hm")
    both = ([answer("a", "ours", "")], [answer("a", "theirs", "")])
    assert found(head_to_head.compare([question("a")], *both, silent)) == {"unparseable": 0.5}


def test_shares_of_wins():
    judge = Scripted(lambda r: "[[A]]" if r.answers[0] == "ours" else "[[B]]")
    names = ["a", "b", "c", "d"]
    ours = [answer(n, "ours" if n != "d" else "same", "") for n in names]
    theirs = [answer(n, "theirs" if n != "d" else "same", "") for n in names]
    shares = head_to_head.shares(
        head_to_head.compare([question(n) for n in names], ours, theirs, judge)
    )
    assert {name: s.value for name, s in shares.items()} == {"win": 75.0, "tie": 25.0, "lose": 0.0}
    assert len(judge.requests) == 6


def test_pairwise_mode_compares_every_turn():
    judge = Scripted(lambda r: "[[A]]" if r.answers[0] in ("o1", "t2") else "[[B]]")
    numbers = found(
        mt_bench_pairwise.compare(
            [question("a")], [answer("a", "o1", "o2")], [answer("a", "t1", "t2")], judge
        )
    )
    assert (numbers["win_1"], numbers["lose_2"]) == (1.0, 1.0)
