from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import pytest

from influbench.data.records import Answer, Outcome, Question
from influbench.errors import UserError
from influbench.evaluation.suites import alpaca_eval
from influbench.judging.protocol import Reply, Request, Usage


class Scripted:
    """A judge that a function of the request answers."""

    name = "scripted"
    small = False
    note = ""
    grading: Literal["probability", "text"] = "text"
    usage = Usage()

    def __init__(self, answer: Callable[[Request], str | float]) -> None:
        self.answer = answer
        self.requests: list[Request] = []

    def ask(self, requests: Sequence[Request]) -> list[Reply]:
        self.requests += requests
        return [self._reply(self.answer(request)) for request in requests]

    def _reply(self, said: str | float) -> Reply:
        chances = None if isinstance(said, str) else (said, 1 - said)
        text = said if isinstance(said, str) else ""
        return Reply(text=text, probabilities=chances, prompt_tokens=1, completion_tokens=1)


def question(name: str, category: str = "") -> Question:
    return Question(id=name, category=category, turns=(f"instruction {name}",))


def answer(name: str, text: str) -> Answer:
    return Answer(id=name, category="", turns=(f"instruction {name}",), responses=(text,))


def found(outcomes: list[Outcome]) -> dict[tuple[str, str], float]:
    return {(o.item, o.metric): o.value for o in outcomes}


def judged(said: Callable[[Request], str | float], **more):
    judge = Scripted(said)
    outcomes = alpaca_eval.judge_pairs(
        [question("a", "koala"), question("b")],
        [answer("b", "good"), answer("a", "good")],
        [answer("a", "poor answer"), answer("b", "poor answer"), answer("c", "not asked")],
        judge,
        **more,
    )
    return found(outcomes), judge, outcomes


def shown_first(request: Request) -> str:
    return request.answers[0]


def test_pure_position_bias_is_a_tie_in_both_orders():
    numbers, judge, _ = judged(lambda request: 0.679)
    assert len(judge.requests) == 4
    assert numbers["a", "win"] == pytest.approx(0.5)
    assert numbers["a", "win_first"] == pytest.approx(0.679)
    assert numbers["a", "win_second"] == pytest.approx(0.321)


def test_the_answer_and_not_its_place_wins():
    numbers, judge, outcomes = judged(lambda r: 0.9 if shown_first(r) == "good" else 0.2)
    assert numbers["b", "win"] == pytest.approx((0.9 + 0.8) / 2)
    assert (numbers["b", "length"], numbers["b", "baseline_length"]) == (4, 11)
    assert {o.category for o in outcomes if o.item == "a"} == {"koala"}
    first = judge.requests[0].messages[1][1]
    assert first.index("instruction a") < first.index("good") < first.index("poor answer")
    assert judge.requests[0].choices == ("m", "M")


def test_random_order_is_drawn_from_the_seed_and_the_question_alone():
    def orders(seed: int, names: list[str]) -> dict[str, str]:
        judge = Scripted(lambda r: 0.5)
        alpaca_eval.judge_pairs(
            [question(n) for n in names],
            [answer(n, "mine") for n in names],
            [answer(n, "theirs") for n in names],
            judge,
            orders="random",
            seed=seed,
        )
        return {n: shown_first(r) for n, r in zip(names, judge.requests, strict=True)}

    names = [f"q{n}" for n in range(64)]
    assert orders(0, names) == orders(0, names[::-1])
    assert orders(0, names) != orders(1, names)
    assert 20 < list(orders(0, names).values()).count("mine") < 44


def test_text_counts_where_no_probability_is_offered():
    numbers, _, _ = judged(lambda r: "'m'." if shown_first(r) == "good" else " M ")
    assert numbers["a", "win"] == 1.0
    assert numbers["a", "unparseable"] == 0.0


def test_replies_that_name_no_output_are_counted_and_not_guessed():
    numbers, _, outcomes = judged(lambda r: "m" if shown_first(r) == "good" else "I think model m")
    assert ("a", "win") not in numbers
    assert numbers["a", "unparseable"] == 0.5
    assert numbers["a", "win_first"] == 1.0
    with pytest.raises(UserError, match="at least one item"):
        alpaca_eval.win_rate(outcomes)


def test_equal_answers_tie_unasked():
    judge = Scripted(lambda r: 1.0)
    same = [answer("a", "the same")]
    numbers = found(alpaca_eval.judge_pairs([question("a")], same, same, judge))
    assert judge.requests == []
    assert numbers["a", "win"] == 0.5


def test_a_missing_answer_is_named():
    with pytest.raises(UserError, match="answer of the baseline to question 'a'"):
        alpaca_eval.judge_pairs([question("a")], [answer("a", "x")], [], Scripted(lambda r: 1.0))


def test_rates_by_hand():
    outcomes = [
        Outcome(metric="win", item=str(i), value=v) for i, v in enumerate((0.9, 0.6, 0.5, 0.2))
    ]
    rate = alpaca_eval.win_rate(outcomes)
    assert rate.value == pytest.approx(55.0)
    # Sample variance of 90, 60, 50, 20 is 2500 / 3.
    assert rate.stderr == pytest.approx(np.sqrt(2500 / 3 / 4))
    assert (rate.n, rate.unit) == (4, "percent")
    assert alpaca_eval.discrete_win_rate(outcomes).value == pytest.approx(62.5)


def test_length_controlled_takes_lengths_from_the_outcomes():
    rng = np.random.default_rng(0)
    outcomes = []
    for item in map(str, range(200)):
        ours, theirs = rng.integers(10, 1000, 2)
        win = 1 / (1 + np.exp(-(ours - theirs) / 100))
        outcomes += [
            Outcome(metric="win", item=item, value=float(win)),
            Outcome(metric="length", item=item, value=float(ours)),
            Outcome(metric="baseline_length", item=item, value=float(theirs)),
        ]
    # Only length decides here, so that at equal lengths nobody is better.
    assert alpaca_eval.length_controlled(outcomes).value == pytest.approx(50, abs=1)
