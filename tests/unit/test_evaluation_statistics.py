import numpy as np
import pytest

from influbench.data.records import Outcome
from influbench.errors import UserError
from influbench.statistics import outcomes as statistics


def test_summary_by_hand():
    summary = statistics.summarise([1.0, 2.0, 6.0], "things", scale=2.0)
    assert summary.value == pytest.approx(6.0)
    assert summary.stderr == pytest.approx(2 * np.sqrt(7 / 3))
    assert statistics.summarise([3.0], "things").stderr is None
    with pytest.raises(UserError, match="got none"):
        statistics.summarise([], "things")


def test_only_items_of_every_seed_are_compared():
    runs = [
        [Outcome(metric="win", item=i, value=v) for i, v in row.items()]
        for row in ({"a": 1.0, "b": 0.0}, {"b": 0.5, "c": 1.0})
    ]
    table, items = statistics.grid(runs, "win")
    assert items == ["b"]
    assert table.tolist() == [[0.0], [0.5]]
    with pytest.raises(UserError, match="none is"):
        statistics.grid(runs, "grade_1")
