import math

import numpy as np
import pytest

from influbench.data.records import ResultRow
from influbench.errors import UserError
from influbench.studies import prediction
from influbench.studies.break_even import break_even
from influbench.studies.prediction import Trained

SCORES = {f"c{i:02d}": float(i) for i in range(12)}
BASE = ResultRow(
    study="s",
    run="r",
    estimator="e",
    round=1,
    seed=0,
    metric="",
    value=0,
    stderr=None,
    n=0,
    unit="",
)


def trained(part, ids, gain, seed=0):
    return Trained(part, seed, tuple(ids), gain, 2.0 - gain)


def test_thirds_are_the_ends_and_the_middle():
    parts = prediction.thirds(SCORES)
    assert set(parts["top"]) == {"c11", "c10", "c09", "c08"}
    assert set(parts["middle"]) == {"c07", "c06", "c05", "c04"}
    assert set(parts["bottom"]) == {"c03", "c02", "c01", "c00"}
    fourteen = {f"c{i:02d}": float(i) for i in range(14)}
    parts = prediction.thirds(fourteen)
    assert [len(ids) for ids in parts.values()] == [4, 4, 4]
    assert not set(parts["top"]) & set(parts["middle"])
    assert not set(parts["middle"]) & set(parts["bottom"])
    with pytest.raises(UserError, match="3 candidates or more, got 2"):
        prediction.thirds({"a": 1.0, "b": 2.0})


def test_equal_scores_are_not_ordered_by_position():
    same = dict.fromkeys(SCORES, 1.0)
    assert prediction.thirds(same) == prediction.thirds(dict(reversed(same.items())))
    assert prediction.thirds(same)["top"] != tuple(sorted(same))[:4]


def test_subsets_depend_on_seed_and_not_on_order():
    names = list(SCORES)
    first = prediction.subset(names, 0.5, "bank:0:0")
    assert len(first) == 6
    assert first == prediction.subset(names[::-1], 0.5, "bank:0:0")
    assert set(first) != set(prediction.subset(names, 0.5, "bank:0:1"))


def test_gains_and_their_correlation_by_hand():
    parts = prediction.thirds(SCORES)
    gains = {"top": (0.5, 0.7), "middle": (0.3, 0.3), "bottom": (0.1, -0.1)}
    found = [
        trained(p, parts[p], g, seed) for p, both in gains.items() for seed, g in enumerate(both)
    ]
    rows = {r.metric: r for r in prediction.result_rows(SCORES, found, [], BASE)}
    assert rows["gain_top"].value == pytest.approx(0.6)
    assert rows["gain_bottom"].value == pytest.approx(0.0)
    assert rows["gain_top_minus_bottom"].value == pytest.approx(0.6)
    stderr = np.std([0.4, 0.8], ddof=1) / math.sqrt(2)
    assert rows["gain_top_minus_bottom"].stderr == pytest.approx(stderr)
    assert rows["gain_top_minus_bottom"].low == pytest.approx(0.6 - 12.7062 * stderr, rel=1e-4)
    means = [9.5, 9.5, 5.5, 5.5, 1.5, 1.5]
    expected = np.corrcoef(means, [0.5, 0.7, 0.3, 0.3, 0.1, -0.1])[0, 1]
    assert rows["gain_correlation"].value == pytest.approx(expected)
    assert "lds" not in rows


def test_lds_is_the_rank_correlation_of_summed_scores_with_gains():
    names = sorted(SCORES)
    subsets = [names[i : i + 6] for i in range(6)]
    found = [trained(p, ids, 0.0) for p, ids in prediction.thirds(SCORES).items()]
    for sign in (1, -1):
        banked = [trained("bank", ids, sign * math.exp(i)) for i, ids in enumerate(subsets)]
        rows = {r.metric: r for r in prediction.result_rows(SCORES, found, banked, BASE)}
        assert rows["lds"].value == pytest.approx(sign)
        assert rows["lds"].n == 6
    assert "gain_correlation" not in rows  # all gains equal: undefined


def test_shares_are_the_top_and_what_it_leaves():
    parts = prediction.shares(SCORES, (25, 100))
    assert set(parts) == {"addition_25", "removal_25", "addition_100"}
    assert set(parts["addition_25"]) == {"c11", "c10", "c09"}
    assert set(parts["removal_25"]) == SCORES.keys() - {"c11", "c10", "c09"}


def test_curves_are_rows_of_the_loss_and_leave_the_correlation_of_thirds_alone():
    thirds = [trained(p, ids, 0.1) for p, ids in prediction.thirds(SCORES).items()]
    curve = [trained("addition_25", ["c11"], gain, seed) for seed, gain in enumerate((0.5, 0.7))]
    rows = {r.metric: r for r in prediction.result_rows(SCORES, [*thirds, *curve], [], BASE)}
    row = rows["addition_25/heldout_loss"]
    assert row.value == pytest.approx(1.4)
    assert row.low is not None
    assert row.high is not None
    assert row.low < 1.4 < row.high
    assert (row.n, row.unit) == (2, "nats/token")
    assert "gain_correlation" not in rows  # the thirds' gains are all equal


def test_a_selection_pays_where_it_saves_more_training_than_its_scores_cost():
    random = {0.25: 3.0, 0.5: 2.5, 1.0: 2.0}
    found = break_even(0.25, 2.75, random, prepare=100.0, score=2.0)
    assert found.share == pytest.approx(0.375)  # half way between 0.25 and 0.5
    assert found.ratio == pytest.approx(2.0 / (3 * 0.125))
    assert found.candidates == pytest.approx(100.0 / (3 * 10 * 0.125 - 2.0))
    assert not found.at_least


def test_a_selection_no_better_than_random_never_pays_and_one_beyond_it_says_at_least():
    random = {0.25: 3.0, 0.5: 3.1, 1.0: 2.0}
    never = break_even(0.25, 3.2, random, 100.0, 2.0)
    assert (never.share, never.ratio, never.candidates) == (0.25, math.inf, math.inf)
    beyond = break_even(0.25, 1.5, random, 100.0, 2.0)
    assert (beyond.share, beyond.at_least) == (1.0, True)
    dear = break_even(0.25, 2.0, random, 100.0, 50.0)
    assert dear.candidates == math.inf
    assert dear.ratio == pytest.approx(50 / (3 * 0.75))
