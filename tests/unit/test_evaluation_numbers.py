"""From outcomes to published numbers, and what stands there when the judge said nothing."""

import pytest

from influbench.data.records import Outcome
from influbench.evaluation.evaluator import Part, unjudged
from influbench.evaluation.suites.alpaca_eval import AlpacaEval
from influbench.evaluation.suites.head_to_head import HeadToHead
from influbench.evaluation.suites.mt_bench import MTBench
from influbench.evaluation.suites.mt_bench_pairwise import MTBenchPairwise
from influbench.statistics.estimate import Estimate


def outcome(metric: str, item: str, value: float, category: str = "") -> Outcome:
    return Outcome(metric=metric, item=item, value=value, category=category)


def judged(wins: list[float]) -> list[Outcome]:
    return [
        outcome(metric, f"q{n}", value)
        for n, win in enumerate(wins)
        for metric, value in (("win", win), ("length", 10.0 + n), ("baseline_length", 10.0))
    ]


def test_alpaca_eval_names_its_variant_and_counts_ties_half():
    found = AlpacaEval().numbers(judged([0.9, 0.6, 0.5, 0.1, 0.4]))
    assert found["win_rate"].value == pytest.approx(50.0)
    assert found["win_rate_discrete"].value == pytest.approx(50.0)
    assert {n for n in found if "lc" in n} == {"win_rate_lc_length_only"}
    assert found["length"].value == 12.0
    difficulty = {f"q{n}": 0.1 * n for n in range(5)}
    found = AlpacaEval(difficulty).numbers(judged([0.9, 0.6, 0.5, 0.1, 0.4]))
    assert {n for n in found if "lc" in n} == {"win_rate_lc_difficulty"}


def test_too_few_prompts_have_no_length_controlled_rate():
    found = AlpacaEval().numbers(judged([0.9, 0.6, 0.5, 0.1]))
    assert not [name for name in found if "lc" in name]


def test_a_silent_judge_gives_lengths_and_a_note_but_no_score():
    silent = [o for o in judged([0.5] * 6) if o.metric != "win"]
    found = AlpacaEval().numbers(silent)
    assert set(found) == {"length", "baseline_length"}
    quality = {"judge_unparseable": Estimate(value=100.0, n=6, unit="percent")}

    def part(numbers):
        return Part(suite="alpaca_eval", numbers=numbers, quality=quality, outcomes=())

    note = unjudged(part(found))
    assert note == "alpaca_eval: no score, since 100 % of the judge's replies give no verdict"
    assert unjudged(part(AlpacaEval().numbers(judged([0.5])))) == ""
    assert MTBench().numbers([outcome("unparseable", "q", 1.0)]) == {}
    assert HeadToHead().numbers([outcome("unparseable", "q", 1.0)]) == {}


def test_mt_bench_by_turn_and_category():
    found = MTBench().numbers(
        [
            outcome("grade_1", "a", 8.0, "math"),
            outcome("grade_2", "a", 4.0, "math"),
            outcome("grade_1", "b", 6.0, "writing"),
            outcome("unparseable", "b", 0.5, "writing"),
        ]
    )
    assert {name: s.value for name, s in found.items()} == {
        "grade": 6.0,
        "grade_1": 7.0,
        "grade_2": 4.0,
        "grade/math": 6.0,
        "grade/writing": 6.0,
    }


def test_pairwise_keeps_the_turns_apart():
    won = {"win": 1.0, "tie": 0.0, "lose": 0.0}
    lost = {"win": 0.0, "tie": 0.0, "lose": 1.0}
    found = MTBenchPairwise().numbers(
        [
            *(outcome(f"{name}_1", item, v) for item in "ab" for name, v in won.items()),
            *(outcome(f"{name}_2", "a", v) for name, v in lost.items()),
            outcome("unparseable_2", "b", 1.0),
        ]
    )
    assert found["win_1"].value == 100.0
    assert found["win_1"].n == 2
    assert found["lose_2"].value == 100.0
    assert found["lose_2"].n == 1
