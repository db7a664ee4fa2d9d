"""Agreement and intervals against hand-computed values."""

import math
import warnings

import numpy as np
import pytest
from scipy import stats

from influbench.data.records import Outcome, Score
from influbench.errors import UserError
from influbench.estimator import Scale
from influbench.statistics import agreement, bootstrap
from influbench.statistics.against_oracle import agreement_table, ceiling
from influbench.statistics.bootstrap import interval, paired_difference
from influbench.statistics.outcomes import difference, summary


def scores(values, prefix="c"):
    return [Score(id=f"{prefix}{i}", value=float(v)) for i, v in enumerate(values)]


def groups_of(count, size):
    return {f"c{i}": f"g{i // size}" for i in range(count)}


def agree(oracle, method, groups=None, scale: Scale = "nats", seed=0, **options):
    table = agreement_table(
        scores(oracle) if not isinstance(oracle[0], Score) else oracle,
        {"m": scores(method)},
        groups or {},
        {"m": scale},
        np.random.default_rng(seed),
        resamples=options.pop("resamples", 50),
        **options,
    )
    return table["m"]


def test_rank_correlations_agree_with_scipy_with_ties_too():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=40), rng.integers(0, 4, size=40).astype(float)
    rows = agree(x, y)
    assert rows["spearman"].value == pytest.approx(stats.spearmanr(x, y)[0])
    assert rows["kendall"].value == pytest.approx(stats.kendalltau(x, y)[0])
    assert rows["spearman"].n == 40


def test_a_perfect_and_a_reversed_method():
    x = np.linspace(-1, 1, 12)
    same, reverse = agree(x, x**3, groups_of(12, 4)), agree(x, -x, groups_of(12, 4))
    for metric in ("spearman", "kendall", "spearman_within", "pair_precision", "top_overlap"):
        assert same[metric].value == pytest.approx(1.0), metric
    for metric in ("spearman", "kendall", "spearman_within", "kendall_within"):
        assert reverse[metric].value == pytest.approx(-1.0), metric
    for metric in ("pair_precision", "top_overlap", "sign_agreement"):
        assert reverse[metric].value == pytest.approx(0.0), metric


def test_within_group_ignores_differences_between_groups():
    oracle = [1, 2, 3, 11, 12, 13]
    method = [3, 2, 1, 13, 12, 11]  # wrong in each group, right between them
    rows = agree(oracle, method, groups_of(6, 3))
    assert rows["spearman_within"].value == pytest.approx(-1.0)
    assert rows["spearman_within"].n == 2
    assert rows["spearman"].value > 0.5


def test_a_group_that_the_method_cannot_order_counts_as_zero():
    rows = agree([1, 2, 3, 4], [1, 2, 7, 7], groups_of(4, 2))
    assert rows["spearman_within"].value == pytest.approx(0.5)
    assert rows["pair_precision"].value == pytest.approx(0.75)


def test_candidates_without_a_group_have_no_within_group_agreement():
    rows = agree([1, 2, 3, 4], [1, 2, 3, 4])
    assert math.isnan(rows["spearman_within"].value)
    assert math.isnan(rows["pair_precision"].value)
    assert rows["spearman"].value == pytest.approx(1.0)


def test_sign_agreement_and_its_centred_form():
    oracle, method = [-1, 1, 2, 3], [9, 11, 12, 13]  # an offset of ten that all share
    rows = agree(oracle, method)
    assert rows["sign_agreement"].value == pytest.approx(0.75)
    assert rows["sign_agreement_centred"].value == pytest.approx(1.0)
    assert math.isnan(agree(oracle, method, scale="rank")["sign_agreement"].value)


def test_constant_scores_are_undefined_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = agree([1, 2, 3, 4, 5, 6, 7, 8], [5] * 8, groups_of(8, 4))
    for metric in ("spearman", "kendall", "spearman_within", "sign_agreement_centred"):
        assert math.isnan(rows[metric].value), metric
        assert rows[metric].low is None, metric
    # Breaking ties at random is defined: chance.
    assert rows["pair_precision"].value == 0.5
    assert rows["top_overlap"].value == pytest.approx(0.25)


def test_top_overlap_shares_the_last_places_among_ties():
    oracle = np.array([8.0, 7, 6, 5, 4, 3, 2, 1])  # best quarter: the first two
    assert agreement.top_overlap(oracle, oracle) == 1.0
    # One place is certain (the first); three tie for the other, one of them in the oracle's top.
    method = np.array([9.0, 5, 5, 5, 0, 0, 0, 0])
    assert agreement.top_overlap(oracle, method) == pytest.approx((1 + 1 / 3) / 2)
    # Of twelve the best three: the third and the fourth are exchanged.
    twelve = np.arange(12.0)[::-1]
    swapped = np.array([11.0, 10, 8, 9, *range(7, -1, -1)])
    assert agreement.top_overlap(twelve, swapped) == pytest.approx(2 / 3)


def test_margin_pairs_are_those_that_the_oracle_separates():
    def with_noise(name, value, noise):
        per_reference = (value + noise, value - noise)
        return Score(id=name, value=value, per_reference=per_reference)

    oracle = [with_noise("c0", 1.0, 0.0), with_noise("c1", 0.5, 0.0), with_noise("c2", 0.4, 5.0)]
    rows = agree(oracle, [3, 2, 9], {f"c{i}": "g" for i in range(3)})
    # Only c0 over c1 is beyond two standard errors; c2 is noise.
    assert (rows["pair_precision_margin"].value, rows["pair_precision_margin"].n) == (1.0, 1)
    assert (rows["pair_precision"].value, rows["pair_precision"].n) == (0.0, 1)
    # A gap of 0.5 is beyond two standard errors of 0.2, and not of 0.3.
    for noise, count in ((0.2, 1), (0.3, 0)):
        near = [with_noise("c0", 1.0, 0.0), with_noise("c1", 0.5, noise)]
        found = agree(near, [2, 1], {"c0": "g", "c1": "g"})["pair_precision_margin"]
        assert found.n == count


def test_scores_are_joined_by_id_and_other_candidates_are_refused():
    oracle, method = scores([1, 2, 3]), scores([1, 2, 3])[::-1]
    rng = np.random.default_rng(0)
    table = agreement_table(oracle, {"m": method}, {}, {"m": "nats"}, rng, resamples=10)
    assert table["m"]["spearman"].value == pytest.approx(1.0)
    with pytest.raises(UserError, match="'m' to score the oracle's 3 candidates, got 2: id 'c2'"):
        agreement_table(oracle, {"m": oracle[:2]}, {}, {"m": "nats"}, rng)


def test_same_generator_same_interval_and_other_methods_do_not_change_it():
    rng = np.random.default_rng(3)
    x, y, z = rng.normal(size=(3, 20))
    table = agreement_table(
        scores(x),
        {"z": scores(z), "m": scores(y)},
        {},
        {"m": "nats", "z": "nats"},
        np.random.default_rng(0),
        resamples=50,
    )
    alone = agree(x, y)["spearman"]
    together = table["m"]["spearman"]
    assert alone == together
    assert agree(x, y, seed=1)["spearman"].low != alone.low
    low, high = alone.bounds
    assert low < alone.value < high


@pytest.mark.parametrize("count", [1, 2, 9, 129, bootstrap.AT_ONCE + 1])
def test_the_mean_of_many_resamples_at_a_time_has_the_bits_of_one_by_one(count):
    values = np.random.default_rng(1).normal(size=count)
    one, many = np.random.default_rng(2), np.random.default_rng(2)
    expected = interval(values, lambda x: float(x.mean()), one, resamples=40)
    assert bootstrap.mean(values, many, resamples=40) == expected
    assert many.integers(1 << 40) == one.integers(1 << 40), "and the same draws come after it"


def test_the_cluster_bootstrap_is_wider_than_one_that_takes_siblings_for_independent():
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=10), 8)
    y = x * 0.5 + np.repeat(rng.normal(size=10), 8)
    tiny = rng.normal(size=80) * 1e-3
    clustered = agree(x + tiny, y - tiny, groups_of(80, 8), resamples=300)["spearman"]
    naive = agree(x + tiny, y - tiny, resamples=300)["spearman"]
    assert clustered.value == naive.value
    assert np.diff(clustered.bounds) > 1.5 * np.diff(naive.bounds)


def noisy_oracle(noise, candidates=24, references=40):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(candidates, 1)) + noise * rng.normal(size=(candidates, references))
    return [
        Score(id=f"c{i}", value=float(row.mean()), per_reference=tuple(map(float, row)))
        for i, row in enumerate(values)
    ]


def test_the_ceiling_falls_with_noise():
    def spearman(noise):
        rows = ceiling(noisy_oracle(noise), {}, np.random.default_rng(0), resamples=30)
        return rows["spearman"]

    assert spearman(1e-9).value == pytest.approx(1.0)
    assert 0.8 < spearman(1.0).value < 1.0
    assert abs(spearman(1e3).value) < 0.5
    low, high = spearman(1.0).bounds
    assert low < spearman(1.0).value < high


def test_the_ceiling_needs_values_per_reference():
    assert ceiling(scores([1, 2, 3]), {}, np.random.default_rng(0)) == {}


def outcomes(values, metric="win_rate"):
    return [Outcome(metric=metric, item=f"q{i}", value=float(v)) for i, v in enumerate(values)]


def test_summary_is_the_mean_over_items():
    found = summary(outcomes([0, 100] * 50), np.random.default_rng(0))
    assert found.value == 50.0
    assert found.n == 100
    # Standard error of a fair coin in per cent: 50 / sqrt(100).
    assert found.stderr == pytest.approx(5.0, rel=0.15)
    assert found.low == pytest.approx(40.2, abs=2.0)


def test_both_orders_of_an_item_are_one_item():
    doubled = outcomes([0, 100] * 20) + outcomes([100, 100] * 20)
    once = summary(outcomes([50, 100] * 20), np.random.default_rng(0))
    assert summary(doubled, np.random.default_rng(0)) == once


def test_difference_is_paired_by_item_whatever_the_order():
    rng = np.random.default_rng(0)
    hard = rng.normal(size=60) * 100
    a, b = outcomes(hard + 1 + rng.normal(size=60) * 0.1), outcomes(hard)
    found = difference(a, b[::-1], np.random.default_rng(0))
    assert found.value == pytest.approx(1.0, abs=0.05)
    assert found.stderr == pytest.approx(0.013, rel=0.3)  # items differ by a hundred; that cancels
    with pytest.raises(UserError, match="such as 'q59'"):
        difference(a, b[:-1], np.random.default_rng(0))


def test_the_interval_lies_between_the_outer_fortieths_of_the_resamples():
    items = np.random.default_rng(3).normal(size=30)
    rng = np.random.default_rng(4)
    means = [items[rng.integers(30, size=30)].mean() for _ in range(500)]
    found = bootstrap.mean(items, np.random.default_rng(4), resamples=500)
    assert found.bounds == pytest.approx(tuple(np.quantile(means, [1 / 40, 39 / 40])))


def test_interval_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        found = interval(rng.normal(size=40), lambda x: float(x.mean()), rng, resamples=200)
        low, high = found.bounds
        hits += low <= 0 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_paired_difference_refuses_lists_of_different_length():
    with pytest.raises(UserError, match="same items"):
        paired_difference([1.0], [1.0, 2.0], np.random.default_rng(0))


@pytest.mark.parametrize("items", [0, 1, 2, 24, 805, 20_000])
def test_intervals_of_means_drawn_together_are_those_drawn_one_by_one(items):
    values = np.random.default_rng(items).normal(size=items)
    one, other = np.random.default_rng(3), np.random.default_rng(3)
    alone = bootstrap.interval(values, lambda x: float(x.mean()), one, resamples=50)
    together = bootstrap.mean(values, other, resamples=50)
    assert repr(together) == repr(alone), "NaN too"
    assert one.integers(1000) == other.integers(1000) or not items
