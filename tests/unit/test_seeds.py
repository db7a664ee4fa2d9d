"""Numbers over a few seeds: bounds, closed forms, and how often the intervals hold the truth."""

import math

import numpy as np
import pytest
from scipy import stats

from influbench.errors import UserError
from influbench.results.metrics import range_of
from influbench.statistics.estimate import Estimate
from influbench.statistics.outcomes import share
from influbench.statistics.seeds import from_stderr, over_seeds, paired_difference

CORRELATION, RATE, LOSS = (-1.0, 1.0), (0.0, 100.0), (0.0, math.inf)


def seeds(*values, half=None, n=100):
    return [
        Estimate(value=v, n=n)
        if half is None
        else Estimate(value=v, low=v - half, high=v + half, stderr=half / 1.96, n=n)
        for v in values
    ]


def test_one_seed_keeps_its_own_interval_inside_the_bounds():
    (one,) = seeds(0.9, half=0.2)
    found = over_seeds([one], CORRELATION)
    assert (found.value, found.low, found.high) == (0.9, pytest.approx(0.7), 1.0)


def test_without_bounds_it_is_students_t():
    found = over_seeds(seeds(1.0, 2.0, 3.0))
    # t(0.975, 2) = 4.3027, standard deviation 1, three seeds.
    assert found.value == 2.0
    assert found.bounds == pytest.approx((2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), abs=1e-3)


def test_a_correlation_goes_through_fishers_z():
    values = (0.3, 0.5, 0.6)
    z = np.arctanh(values)
    half = stats.t.ppf(0.975, 2) * z.std(ddof=1) / math.sqrt(3)
    centre = np.arctanh(np.mean(values))
    expected = np.tanh([centre - half, centre + half])
    assert over_seeds(seeds(*values), CORRELATION).bounds == pytest.approx(tuple(expected))


@pytest.mark.parametrize(
    ("values", "within"),
    [
        ((0.95, 0.03), CORRELATION),
        ((1.0, 0.9), CORRELATION),
        ((1.0, -1.0, 0.2), CORRELATION),
        ((0.0, 100.0), RATE),
        ((99.0, 100.0, 100.0), RATE),
        ((2.5, 0.4), LOSS),
    ],
)
@pytest.mark.parametrize("half", [None, 0.4])
def test_the_interval_of_a_bounded_measure_stays_inside_its_bounds(values, within, half):
    found = over_seeds(seeds(*values, half=half), within)
    low, high = found.bounds
    assert within[0] <= low <= found.value <= high <= within[1]


def test_a_seed_on_a_bound_counts_as_half_an_item_inside_and_the_interval_reaches_the_bound():
    def logit(share):
        return np.log(share / (1 - share))

    z = logit(np.array([0.9, 1 - 0.5 / 49, 0.95]))
    low = logit(0.95) - stats.t.ppf(0.975, 2) * z.std(ddof=1) / math.sqrt(3)
    found = over_seeds(seeds(0.9, 1.0, 0.95, n=48), (0.0, 1.0))
    assert found.bounds == pytest.approx((1 / (1 + math.exp(-low)), 1.0))
    # Nearer to the bound than half an item, which was where the interval ended.
    assert over_seeds(seeds(1.0, 1.0, 0.998, half=0.001, n=48), (0.0, 1.0)).high == 1.0
    assert over_seeds(seeds(0.0, 0.002, half=0.001, n=48), (0.0, 1.0)).low == 0.0


def test_a_count_of_zero_is_half_its_nearest_other_value_and_the_interval_reaches_zero():
    z = np.log([1.0, 5.0, 0.5])
    high = math.exp(math.log(2.0) + stats.t.ppf(0.975, 2) * z.std(ddof=1) / math.sqrt(3))
    assert over_seeds(seeds(1.0, 5.0, 0.0), LOSS).bounds == pytest.approx((0.0, high))
    assert over_seeds(seeds(0.0, 0.0, 0.0), LOSS).low is None


@pytest.mark.parametrize(
    ("metric", "unit", "within"),
    [
        ("best_worst", "", (0.0, 1.0)),
        ("pair_precision:high", "", (0.0, 1.0)),
        ("written_arithmetic", "share", (0.0, 1.0)),
        ("mt_bench/coding", "grade 1-10", (1.0, 10.0)),
        ("same_pairs", "pairs", LOSS),
        ("noise_floor", "nats/token", LOSS),
        ("heldout_loss_change", "nats/token", (-math.inf, math.inf)),
    ],
)
def test_the_range_of_what_is_published(metric, unit, within):
    assert range_of(metric, unit) == within


def test_equal_seeds_without_doubt_of_their_own_have_no_interval():
    assert over_seeds(seeds(12.0, 12.0, 12.0)).low is None
    assert over_seeds(seeds(1.0, 1.0, half=0.1), CORRELATION).bounds[1] <= 1.0


def test_the_items_that_seeds_share_are_not_averaged_away():
    found = over_seeds(seeds(2.0, 2.0, 2.0, half=1.0))
    assert found.bounds == pytest.approx((1.0, 3.0))


def test_a_standard_error_alone_becomes_an_interval_on_the_same_scale():
    half = from_stderr(Estimate(value=50.0, stderr=5.0, n=100), RATE)
    assert half.bounds == pytest.approx((40.3, 59.7), abs=0.1)
    edge = from_stderr(Estimate(value=99.0, stderr=1.0, n=100), RATE)
    assert 90 < edge.bounds[0] < 99 < edge.bounds[1] <= 100
    bare = Estimate(value=3.0, n=1)
    assert from_stderr(bare, RATE) == bare


@pytest.mark.parametrize(("value", "count"), [(0.0, 0), (100.0, 45)])
def test_a_share_of_items_that_are_all_alike_keeps_its_doubt(value, count):
    # A standard error of 0 made an interval of half an item: [0, 0.9 %] for none of 45.
    told = stats.binomtest(count, 45).proportion_ci()
    found = from_stderr(Estimate(value=value, stderr=0.0, n=45), RATE)
    assert found.bounds == pytest.approx((100 * told.low, 100 * told.high))
    assert found.value == value


@pytest.mark.parametrize("count", [0, 1, 44, 45])
def test_a_share_has_the_exact_interval(count):
    told = stats.binomtest(count, 45).proportion_ci()
    assert share(count, 45).bounds == pytest.approx((told.low, told.high))
    assert share(count, 45).value == count / 45


def test_a_value_outside_the_declared_bounds_has_none():
    assert over_seeds(seeds(150.0, 160.0, 170.0), RATE).value == 160.0


@pytest.mark.parametrize("count", [3, 5])
def test_intervals_of_correlations_hold_the_truth_as_often_as_they_say(count):
    """Each seed draws its own 40 candidates, and its true correlation scatters about the mean."""
    rng = np.random.default_rng(count)
    trials, hits = 400, 0
    grid = np.random.default_rng(0).normal(0.55, 0.25, 100_000)
    truth = float(np.tanh(grid).mean())  # the mean over all seeds that there might be
    for _ in range(trials):
        true = np.tanh(rng.normal(0.55, 0.25, count))
        x = rng.normal(size=(count, 40))
        y = true[:, None] * x + np.sqrt(1 - true[:, None] ** 2) * rng.normal(size=x.shape)
        found = [float(np.corrcoef(a, b)[0, 1]) for a, b in zip(x, y, strict=True)]
        low, high = over_seeds(seeds(*found, n=40), CORRELATION).bounds
        hits += low <= truth <= high
    assert 0.92 <= hits / trials <= 0.98


@pytest.mark.parametrize("count", [3, 5])
@pytest.mark.parametrize(("of_seed", "of_item"), [(0.3, 0.1), (0.05, 1.0), (0.0, 1.0)])
def test_intervals_of_differences_hold_the_truth_as_often_as_they_say(count, of_seed, of_item):
    """Seeds differ, prompts differ, and both do so together: 30 prompts that all seeds share."""
    rng = np.random.default_rng(count)
    trials, hits = 300, 0
    for _ in range(trials):
        gaps = 0.2 + of_seed * rng.normal(size=(count, 1)) + of_item * rng.normal(size=(1, 30))
        gaps = gaps + 0.3 * rng.normal(size=gaps.shape)
        low, high = paired_difference(gaps, np.zeros_like(gaps), rng, resamples=300).bounds
        hits += low <= 0.2 <= high
    assert hits / trials >= 0.92


def test_a_plain_bootstrap_over_three_seeds_would_not():
    """Why the correction is there: over three clusters the percentile interval is too narrow."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        means = rng.normal(size=3)
        draws = means[rng.integers(3, size=(300, 3))].mean(axis=1)
        low, high = np.quantile(draws, [0.025, 0.975])
        hits += low <= 0 <= high
    assert hits / 300 < 0.85


def test_seeds_are_resampled_as_wholes():
    # All the variance is between seeds: 1 in half of them, 0 in the others.
    a = np.repeat([[1.0], [0.0], [1.0], [0.0]], 500, axis=1)
    found = paired_difference(a, np.zeros_like(a), np.random.default_rng(0))
    assert found.value == 0.5
    assert found.stderr == pytest.approx(np.sqrt(1 / 3 / 4), rel=0.1)
    half = stats.t.ppf(0.975, 3) * np.sqrt(1 / 3 / 4)
    assert found.bounds == pytest.approx((0.5 - half, 0.5 + half), rel=0.1)


def test_one_seed_is_the_bootstrap_over_prompts():
    rng = np.random.default_rng(1)
    gaps = rng.normal(0.3, 1.0, (1, 400))
    found = paired_difference(gaps, np.zeros_like(gaps), np.random.default_rng(2))
    assert found.value == pytest.approx(gaps.mean())
    assert found.stderr == pytest.approx(gaps.std(ddof=1) / 20, rel=0.1)
    low, high = found.bounds
    assert low < found.value < high
    again = paired_difference(gaps, np.zeros_like(gaps), np.random.default_rng(2))
    assert again == found


def test_pairing_takes_the_shared_difficulty_out():
    rng = np.random.default_rng(3)
    hard = rng.normal(size=(3, 300))
    noise = 0.01 * rng.normal(size=(3, 300))
    found = paired_difference(hard + 0.1 + noise, hard, np.random.default_rng(4))
    assert found.bounds[0] > 0.09
    with pytest.raises(UserError, match="same seeds and prompts"):
        paired_difference(hard, hard[:2], np.random.default_rng(4))


def test_correlations_nearer_to_one_than_half_an_item_are_not_taken_for_less():
    """Four seeds of 32 candidates: half an item from 1 is 0.97, where such an interval ended."""
    values, half = (0.990, 0.985, 0.995, 0.980), 0.004
    found = over_seeds(seeds(*values, half=half, n=32), CORRELATION)
    z, ends = np.arctanh(values), np.arctanh(np.add(values, half))
    spread = stats.t.ppf(0.975, 3) * z.std(ddof=1) / 2
    high = np.tanh(np.arctanh(np.mean(values)) + math.hypot(spread, ends.mean() - z.mean()))
    assert found.bounds[1] == pytest.approx(high)
    assert found.bounds[1] > found.value


def test_what_is_on_a_bound_but_for_rounding_is_on_it():
    found = over_seeds(seeds(1.0, 1 - 2e-16, 1.0, n=24), CORRELATION)
    assert found.value == pytest.approx(1.0)
    assert found.low is None  # three equal numbers without an interval of their own
