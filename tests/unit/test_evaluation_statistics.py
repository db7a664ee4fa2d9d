import numpy as np
import pytest

from influbench.errors import UserError
from influbench.records import Outcome
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


def test_seeds_are_resampled_as_wholes():
    # All the variance is between seeds: 1 in half of them, 0 in the others.
    a = np.repeat([[1.0], [0.0], [1.0], [0.0]], 500, axis=1)
    found = statistics.paired_difference(a, np.zeros_like(a), np.random.default_rng(0))
    assert found.value == 0.5
    assert found.stderr == pytest.approx(np.sqrt(0.25 / 4), rel=0.1)
    naive = np.sqrt(0.25 / 2000)
    assert found.stderr > 10 * naive


def test_one_seed_is_the_bootstrap_over_prompts():
    rng = np.random.default_rng(1)
    gaps = rng.normal(0.3, 1.0, (1, 400))
    found = statistics.paired_difference(gaps, np.zeros_like(gaps), np.random.default_rng(2))
    assert found.value == pytest.approx(gaps.mean())
    assert found.stderr == pytest.approx(gaps.std(ddof=1) / 20, rel=0.1)
    low, high = found.bounds
    assert low < found.value < high
    again = statistics.paired_difference(gaps, np.zeros_like(gaps), np.random.default_rng(2))
    assert again == found


def test_pairing_takes_the_shared_difficulty_out():
    rng = np.random.default_rng(3)
    hard = rng.normal(size=(3, 300))
    noise = 0.01 * rng.normal(size=(3, 300))
    found = statistics.paired_difference(hard + 0.1 + noise, hard, np.random.default_rng(4))
    assert found.bounds[0] > 0.09
    with pytest.raises(UserError, match="same seeds and prompts"):
        statistics.paired_difference(hard, hard[:2], np.random.default_rng(4))
