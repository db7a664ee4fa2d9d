"""Scores that are mostly noise are said to be."""

import pytest

from influbench.data.records import Score
from influbench.scoring.doubt import doubt


def scores(*pairs):
    return [Score(id=str(i), value=v, stderr=e) for i, (v, e) in enumerate(pairs)]


def test_most_scores_below_their_errors_are_told_with_their_number():
    said = doubt(scores((1, 2), (-1, 2), (3, 2)))
    assert said.startswith("2 of 3 scores are smaller than their standard errors")


@pytest.mark.parametrize("pairs", [[(1, 2), (3, 2)], [(1, None), (0, None)], [], [(1, 0), (0, 0)]])
def test_half_or_fewer_or_none_known_says_nothing(pairs):
    assert doubt(scores(*pairs)) == ""
