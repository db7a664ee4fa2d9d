"""The learned estimator and the ensemble."""

from typing import Any

import numpy as np
import pytest
import torch

from influbench import testing
from influbench.derivatives import tangents
from influbench.errors import UserError
from influbench.estimator import as_scores
from influbench.estimators.adam_jvp import AdamJvp
from influbench.estimators.ensemble import Ensemble, rank
from influbench.estimators.exact import Exact
from influbench.estimators.influence_distillation import InfluenceDistillation, kernel_ridge
from influbench.estimators.length import Length
from influbench.estimators.mates import Mates, ridge
from influbench.estimators.random import Random

RNG = np.random.default_rng(3)
LENGTH = "influbench.estimators.length:Length"
RANDOM = "influbench.estimators.random:Random"
CANDIDATES = testing.tiny_examples("candidate", 6)


@pytest.fixture
def tiny(tmp_path):
    return testing.tiny_context(tmp_path)


def test_ridge_recovers_a_linear_function():
    features, slope = RNG.normal(size=(40, 5)), np.array([1.0, -2.0, 0.5, 0.0, 3.0])
    got, intercept, left_out = ridge(features, features @ slope + 0.7)
    np.testing.assert_allclose(got, slope, atol=1e-4)
    assert intercept == pytest.approx(0.7, abs=1e-4)
    np.testing.assert_allclose(left_out, features @ slope + 0.7, atol=1e-3)


def test_ridge_leave_one_out_is_what_leaving_out_gives():
    features, target = RNG.normal(size=(12, 3)), RNG.normal(size=12)
    slope, _, left_out = ridge(features, target)
    centred = features - features.mean(axis=0)
    # The penalty that was chosen, from the normal equations (XᵀX + λ) β = Xᵀy.
    residual = centred.T @ (target - target.mean()) - centred.T @ centred @ slope
    penalty = float(residual @ slope / (slope @ slope))
    for i in range(12):
        keep = np.arange(12) != i
        # Leaving one out moves the mean too, which an unpenalised intercept column accounts for.
        x = np.c_[features[keep], np.ones(11)]
        centre = np.diag([penalty] * 3 + [0.0])
        beta = np.linalg.solve(x.T @ x + centre, x.T @ target[keep])
        assert left_out[i] == pytest.approx(
            float(np.r_[features[i], 1.0] @ beta), rel=1e-6, abs=1e-9
        )


def test_mates_learns_from_its_budget_of_exact_scores(tiny):
    method = Mates(budget=6)
    got = as_scores(method.prepare(tiny)(CANDIDATES), 6)
    assert got.diagnostics["probes"] == 6
    exact = as_scores(Exact().prepare(tiny)(tiny.warmup), 8).value
    assert exact.min() <= got.value.mean() <= exact.max()
    with pytest.raises(ValueError, match="budget"):
        Mates(budget=2)


def test_kernel_ridge_is_the_normal_equations_and_leaves_out_what_it_says():
    features, target = RNG.normal(size=(9, 4)), RNG.normal(size=9)
    kernel = features @ features.T
    carried, left_out = kernel_ridge(kernel, target)
    penalty = float((target - kernel @ carried) @ carried / (carried @ carried))
    inverse = np.linalg.inv(kernel + penalty * np.eye(9))
    np.testing.assert_allclose(carried, inverse @ target, rtol=1e-6)
    for i in range(9):
        keep = np.arange(9) != i
        inner = kernel[np.ix_(keep, keep)] + penalty * np.eye(8)
        expected = kernel[i, keep] @ np.linalg.solve(inner, target[keep])
        assert left_out[i] == pytest.approx(float(expected), rel=1e-6, abs=1e-9)


def test_tangents_are_the_change_of_the_pooled_states_along_the_direction(tiny):
    student = tiny.student
    weights = list(student.model.parameters())
    encoder = tangents.TangentEncoder(student, weights, 1, "a test")
    got = encoder(CANDIDATES[:2])
    ((*along,),) = encoder._directions

    def pooled(example, epsilon):
        with torch.no_grad():
            for w, d in zip(weights, along, strict=True):
                w.add_(d, alpha=epsilon)
            hidden = student.hidden(torch.tensor([student.encode(example).ids]))[0].double()
            for w, d in zip(weights, along, strict=True):
                w.sub_(d, alpha=epsilon)
        place = np.arange(1, len(hidden) + 1)
        return (hidden.numpy() * place[:, None]).sum(0) / place.sum()

    for row, example in zip(got, CANDIDATES, strict=False):
        change = pooled(example, 1e-3) - pooled(example, -1e-3)
        np.testing.assert_allclose(row, change / np.linalg.norm(change), atol=2e-3)


def test_influence_distillation_gives_landmarks_their_own_scores(tiny):
    method = InfluenceDistillation(budget=8, directions=2)
    got = as_scores(method.prepare(tiny)(tiny.warmup), 8)
    exact = as_scores(AdamJvp().prepare(tiny)(tiny.warmup), 8).value
    assert got.diagnostics["landmarks"] == 8
    assert np.corrcoef(got.value, exact)[0, 1] > 0.5
    assert method.facts.passes == ("3M + 7budget", "4")
    assert InfluenceDistillation(budget=8, features="student").facts.passes == ("3M + 4budget", "1")
    with pytest.raises(ValueError, match="budget"):
        InfluenceDistillation(budget=2)


def test_ranks_are_interpolated_and_never_saturate():
    known = np.array([1.0, 2.0, 2.0, 4.0])
    places = rank(np.array([1.0, 1.5, 2.0, 3.0, 4.0]), known) * 5
    np.testing.assert_allclose(places, [1.0, 1.75, 2.5, 3.25, 4.0])
    values = np.array([-1e6, -5.0, 0.0, 0.9, 1.0, 4.0, 4.1, 50.0, 1e6])
    ranks = rank(values, known)
    assert (np.diff(ranks) > 0).all()
    assert ranks[0] > 0
    assert ranks[-1] < 1


def test_ranks_among_equal_scores():
    ranks = rank(np.array([0.0, 2.0, 5.0]), np.array([2.0, 2.0]))
    assert ranks[0] < ranks[1] == pytest.approx(0.5)
    assert ranks[1] < ranks[2] < 1


def test_ensemble_is_the_mean_of_its_members_ranks(tiny):
    expected = []
    for method in (Length(), Random()):
        scorer = method.prepare(tiny)
        expected.append(
            rank(np.asarray(scorer(CANDIDATES)), np.sort(np.asarray(scorer(tiny.warmup))))
        )
    got = as_scores(Ensemble(members=(LENGTH, RANDOM)).prepare(tiny)(CANDIDATES), 6)
    np.testing.assert_allclose(got.value, np.mean(expected, axis=0))


def test_ensemble_keeps_the_contract_and_names_its_mistakes(tiny):
    ensemble: Any = Ensemble(members=(LENGTH, RANDOM))
    testing.check_estimator(ensemble)
    with pytest.raises(ValueError, match="two or more different"):
        Ensemble(members=(LENGTH, LENGTH))
    with pytest.raises(UserError, match="no estimator named 'lenght'"):
        Ensemble(members=(LENGTH, "lenght")).prepare(tiny)
