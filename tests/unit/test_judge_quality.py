"""A judge's behaviour, read from the outcomes of the scores that it gave."""

import pytest

from influbench.data.records import Outcome
from influbench.evaluation.judge_check import (
    CONSISTENT,
    PREFERS_FIRST,
    PREFERS_LONGER,
    UNPARSEABLE,
    quality,
)


def outcomes(**items: dict[str, float]) -> list[Outcome]:
    return [
        Outcome(metric=metric, item=item, value=value)
        for item, numbers in items.items()
        for metric, value in numbers.items()
    ]


def test_a_judge_that_only_sees_the_place_is_found_out():
    found = quality(
        outcomes(
            a={"win": 0.5, "win_first": 0.9, "win_second": 0.1, "unparseable": 0.0},
            b={"win": 0.5, "win_first": 0.7, "win_second": 0.3, "unparseable": 0.0},
        )
    )
    assert found[PREFERS_FIRST].value == pytest.approx(80.0)
    assert found[PREFERS_FIRST].n == 2
    assert found[CONSISTENT].value == 0.0
    assert found[UNPARSEABLE].value == 0.0


def test_a_judge_that_reads_has_no_position_bias():
    found = quality(
        outcomes(
            a={"win": 0.9, "win_first": 0.9, "win_second": 0.9},
            b={"win": 0.2, "win_first": 0.2, "win_second": 0.2},
        )
    )
    assert found[PREFERS_FIRST].value == pytest.approx(50.0)
    assert found[CONSISTENT].value == 100.0


def test_one_order_an_item_still_shows_a_liking_for_a_place():
    found = quality(outcomes(a={"win": 0.9, "win_first": 0.9}, b={"win": 0.2, "win_second": 0.2}))
    assert found[PREFERS_FIRST].value == pytest.approx(85.0)
    assert CONSISTENT not in found


def test_length_counts_where_lengths_differ():
    found = quality(
        outcomes(
            longer={"win": 0.8, "length": 20.0, "baseline_length": 10.0},
            shorter={"win": 0.4, "length": 5.0, "baseline_length": 10.0},
            equal={"win": 0.0, "length": 7.0, "baseline_length": 7.0},
        )
    )
    assert found[PREFERS_LONGER].value == pytest.approx(70.0)
    assert found[PREFERS_LONGER].n == 2


def test_comparisons_by_turn_are_averaged_by_item():
    found = quality(
        outcomes(
            a={"first_1": 1.0, "first_2": 0.5, "disagreement_1": 1.0, "disagreement_2": 0.0},
            b={"first_1": 0.25, "disagreement_1": 0.0, "unparseable_2": 0.5},
        )
    )
    assert found[PREFERS_FIRST].value == pytest.approx(50.0)
    assert found[CONSISTENT].value == pytest.approx(75.0)
    assert found[UNPARSEABLE].value == pytest.approx(50.0)


def test_nothing_judged_says_nothing():
    assert quality([]) == {}
