"""The adaptive oracle: unbiased where measured, exact when complete, wrong as rarely as it says."""

import numpy as np
import pytest
import torch

from influbench import testing
from influbench.estimator import Context, as_scores
from influbench.estimators.adaptive import settling
from influbench.estimators.adaptive.adaptive import Adaptive
from influbench.estimators.exact import Exact
from influbench.testing import student_state

SIBLINGS = 4


def scored(method, ctx, candidates):
    """Scores that carry values by reference item where the method gives them."""
    return as_scores(method.prepare(ctx)(candidates), len(candidates))


def problem(tmp_path, *, groups=60, references=32, width=12, seed=0):
    """Least squares with a step so long that its curvature reorders siblings."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=width)

    def rows(kind, count):
        X = rng.normal(size=(count, width))
        Y = X @ truth + rng.normal(size=count)
        return [
            testing.toy_example(f"{kind}{i}", X[i], Y[i], group=f"{kind}{i // SIBLINGS}")
            for i in range(count)
        ]

    model = testing.LeastSquares(truth + rng.normal(size=width))
    student = testing.ToyStudent(
        model, torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0)
    )
    warmup = rows("w", 16)
    testing.warmed(student, warmup, steps=6)
    ctx = Context(student, rows("r", references), warmup, tmp_path, seed)
    return ctx, rows("c", groups * SIBLINGS)


def best_worst(values):
    table = values.reshape(-1, SIBLINGS)
    return np.stack([table.argmax(axis=1), table.argmin(axis=1)], axis=1)


def test_adaptive_is_exact_when_everything_must_be_measured(tmp_path):
    ctx, candidates = problem(tmp_path, groups=3, references=10)
    exact = scored(Exact(), ctx, candidates).value
    method = Adaptive(goal="rank", confidence=1 - 1e-15, clusters=3)
    scores = scored(method, ctx, candidates)
    assert scores.diagnostics["reference_passes"] > 8
    complete = np.abs(scores.value - exact) < 1e-12
    assert complete.mean() > 0.8  # a gap can be so wide that no doubt is left even so


@pytest.mark.parametrize("goal", ["best_worst", "sign"])
def test_the_stated_error_rate_bounds_the_measured_one(goal, tmp_path):
    confidence, wrong, total, passes = 0.9, 0, 0, []
    for seed in range(4):
        ctx, candidates = problem(tmp_path, seed=seed)
        exact = scored(Exact(), ctx, candidates).value
        scores = scored(Adaptive(goal=goal, confidence=confidence), ctx, candidates)
        if goal == "sign":
            errors = np.sign(scores.value) != np.sign(exact)
        else:
            errors = (best_worst(scores.value) != best_worst(exact)).any(axis=1)
        wrong, total = wrong + errors.sum(), total + errors.size
        passes.append(scores.diagnostics["reference_passes"] / len(ctx.reference))
    rate = wrong / total
    assert rate <= 1 - confidence + 2 * (0.1 * 0.9 / total) ** 0.5
    assert np.mean(passes) < 0.7


def test_first_order_alone_errs_where_the_adaptive_oracle_does_not(tmp_path):
    ctx, candidates = problem(tmp_path)
    exact = best_worst(scored(Exact(), ctx, candidates).value)
    loose = best_worst(scored(Adaptive(confidence=0.5), ctx, candidates).value)
    tight = best_worst(scored(Adaptive(confidence=0.999), ctx, candidates).value)
    assert (tight != exact).any(axis=1).mean() <= 0.02
    assert (loose != exact).any(axis=1).mean() > (tight != exact).any(axis=1).mean()


def test_adaptive_leaves_the_language_model_as_it_was(tmp_path):
    ctx = testing.tiny_context(tmp_path, references=6)
    before = student_state.snapshot(ctx.student)
    candidates = testing.tiny_examples("candidate", 8, siblings=4)
    values = scored(Adaptive(confidence=0.95, clusters=4), ctx, candidates).value
    assert student_state.same(before, student_state.snapshot(ctx.student))
    exact = scored(Exact(), ctx, candidates).value
    assert np.abs(values - exact).max() < 0.2 * np.ptp(exact)


def test_a_belief_joins_prior_and_measurements():
    misses = settling.Misses(mean=1.0, between=4.0, within=4.0, freedom=7)
    belief = settling.Belief(11.0, 2)
    assert belief.estimate(misses) == (12.0, 4.0)
    belief.measured.append(
        (16.0, 10.0)
    )  # a miss of 6 on the first of two clusters: variance 4/1 · (1 - 1/2)
    mean, variance = belief.estimate(misses)
    assert mean == pytest.approx(11 + (6 / 2 + 1 / 4) / (1 / 2 + 1 / 4))
    assert variance == pytest.approx(1 / (1 / 2 + 1 / 4))
    belief.measured.append((13.0, 12.0))
    assert belief.estimate(misses) == (14.5, 0.0)


def test_the_difference_estimator_is_unbiased():
    rng = np.random.default_rng(3)
    h, f = rng.normal(size=6), rng.normal(size=6)
    flat = settling.Misses(mean=0.0, between=1e30, within=1.0, freedom=3)  # no prior
    means = []
    for _ in range(4000):
        order = rng.permutation(6)
        seen = [(float(f[i]), float(h[i])) for i in order[:2]]
        means.append(settling.Belief(float(h.mean()), 6, seen).estimate(flat)[0])
    assert np.mean(means) == pytest.approx(f.mean(), abs=4 * np.std(means) / 4000**0.5)


def test_doubts_name_the_closest_rivals_first():
    misses = settling.Misses(mean=0.0, between=1.0, within=1.0, freedom=1000)
    beliefs = [settling.Belief(x, 1) for x in (0.0, 5.0, 4.0, 9.0)]
    doubts = settling.doubts(beliefs, misses, "best_worst")
    assert [members for _, members in doubts][:2] in ([[3, 1], [2, 0]], [[2, 0], [3, 1]])
    assert len(doubts) == 5  # all pairs but the two in the middle
    assert doubts[0][0] == pytest.approx(0.00234, abs=1e-4)  # P(N(0,1) > 4/√2)
    assert settling.doubts(beliefs, misses, "sign")[0][1] == [0]
