"""The exact influence against closed forms: quadratic losses, SGD and AdamW by hand."""

import numpy as np
import oracles
import pytest
import torch

from influbench import testing
from influbench.derivatives import step
from influbench.errors import UserError
from influbench.estimator import Context, as_scores
from influbench.estimators.exact import Exact
from influbench.estimators.first_order import FirstOrder
from influbench.estimators.gradient_dot import GradientDot
from influbench.testing import student_state

RNG = np.random.default_rng(7)
X, Y = RNG.normal(size=(6, 3)), RNG.normal(size=6)
CX, CY = RNG.normal(size=(5, 3)), RNG.normal(size=5)
W0 = np.array([0.4, -1.1, 0.3])
REFERENCE = [testing.toy_example(f"r{i}", X[i], Y[i]) for i in range(6)]
CANDIDATES = [testing.toy_example(f"c{i}", CX[i], CY[i]) for i in range(5)]


def scored(method, ctx, examples=CANDIDATES):
    return as_scores(method.prepare(ctx)(examples), len(examples))


def context(student, tmp_path):
    return Context(
        student=student, reference=REFERENCE, warmup=CANDIDATES, scratch=tmp_path, seed=0
    )


def adam_student(lr, *, decay=0.0, clip=None):
    """A least-squares student after two AdamW steps, and its state recomputed in numpy."""
    model = testing.LeastSquares(W0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=decay)
    student = testing.ToyStudent(model, optimizer, clip_norm=clip)
    w, m, v = W0.copy(), np.zeros(3), np.zeros(3)
    for t in range(2):
        optimizer.zero_grad()
        testing.loss_of_each(student, [CANDIDATES[t]]).sum().backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        g = oracles.clipped(oracles.gradient(w, CX[t], CY[t]), clip)
        d, m, v = oracles.adamw(w, g, m, v, t, lr=lr, decay=decay)
        w = w + d
    optimizer.zero_grad()
    assert np.allclose(model.weight.detach().numpy(), w, atol=1e-12)
    return student, w, m, v


def losses_after(w, d):
    return (X @ (w + d) - Y) ** 2


@pytest.mark.parametrize("lr", [1e-3, 0.1, 1.0])
def test_sgd_influence_is_the_quadratic_closed_form(lr, tmp_path):
    model = testing.LeastSquares(W0)
    student = testing.ToyStudent(model, torch.optim.SGD(model.parameters(), lr=lr))
    scores = scored(Exact(baseline="before"), context(student, tmp_path))
    G, H = oracles.mean_gradient(W0, X, Y), oracles.hessian(X)
    for i in range(5):
        g = oracles.gradient(W0, CX[i], CY[i])
        assert scores.value[i] == pytest.approx(lr * g @ G - lr**2 / 2 * g @ H @ g, rel=1e-9)


@pytest.mark.parametrize("baseline", ["null", "before"])
@pytest.mark.parametrize(("decay", "clip"), [(0.0, None), (0.1, 0.5)])
def test_adamw_influence_by_hand(baseline, decay, clip, tmp_path):
    student, w, m, v = adam_student(0.05, decay=decay, clip=clip)
    scores = scored(Exact(baseline=baseline), context(student, tmp_path))
    empty, _, _ = oracles.adamw(w, np.zeros(3), m, v, 2, lr=0.05, decay=decay)
    start = losses_after(w, empty) if baseline == "null" else losses_after(w, 0)
    for i in range(5):
        g = oracles.clipped(oracles.gradient(w, CX[i], CY[i]), clip)
        d, _, _ = oracles.adamw(w, g, m, v, 2, lr=0.05, decay=decay)
        drop = start - losses_after(w, d)
        assert scores.per_reference is not None
        assert scores.stderr is not None
        assert np.allclose(scores.per_reference[i], drop, atol=1e-12)
        assert scores.value[i] == pytest.approx(drop.mean(), abs=1e-12)
        assert scores.stderr[i] == pytest.approx(drop.std(ddof=1) / 6**0.5, abs=1e-12)
    assert scores.diagnostics["reference_loss_before"] == pytest.approx(oracles.mean_loss(w, X, Y))
    assert scores.diagnostics["reference_loss_null"] == pytest.approx(
        oracles.mean_loss(w + empty, X, Y)
    )


def test_update_equals_torch_adamw_step():
    student = testing.tiny_student(learning_rate=1e-3)
    testing.warmed(student, testing.tiny_examples("warmup", 8))
    update = step.next_update(student)
    testing.loss_of_each(student, testing.tiny_examples("next", 2)).mean().backward()
    gradients = [w.grad.clone() for w in update.weights if w.grad is not None]
    expected = [
        w.detach() + d for w, d in zip(update.weights, update.delta(gradients), strict=True)
    ]
    torch.nn.utils.clip_grad_norm_(student.model.parameters(), 1.0)
    student.optimizer.step()
    for ours, theirs in zip(expected, update.weights, strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-7)


def test_oracle_weights_and_moments_are_bit_equal_after_many_candidates(tmp_path):
    ctx = testing.tiny_context(tmp_path, references=2)
    before = student_state.snapshot(ctx.student)
    score = Exact().prepare(ctx)
    first = as_scores(score(testing.tiny_examples("candidate", 1)), 1).value[0]
    for _ in range(50):
        score(testing.tiny_examples("candidate", 2))
    assert student_state.same(before, student_state.snapshot(ctx.student))
    assert as_scores(score(testing.tiny_examples("candidate", 1)), 1).value[0] == first


def test_oracle_restores_the_weights_after_an_interrupt(tmp_path, monkeypatch):
    ctx = testing.tiny_context(tmp_path, references=2)
    score = Exact().prepare(ctx)
    before = student_state.snapshot(ctx.student)
    calls = []

    def interrupted(*args):
        calls.append(args)
        raise KeyboardInterrupt

    monkeypatch.setattr("influbench.derivatives.gradients.losses_of", interrupted)
    with pytest.raises(KeyboardInterrupt):
        score(testing.tiny_examples("candidate", 1))
    assert calls
    assert student_state.same(before, student_state.snapshot(ctx.student))


def test_first_order_tends_to_exact_as_the_step_shrinks(tmp_path):
    errors = []
    for lr in (1e-2, 1e-3, 1e-4):
        student, *_ = adam_student(lr)
        ctx = context(student, tmp_path)
        exact = scored(Exact(), ctx).value
        first = scored(FirstOrder(), ctx).value
        errors.append(np.abs(exact - first).max() / np.abs(exact).max())
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-3


def test_first_order_is_the_step_along_the_gradient_after_the_empty_step(tmp_path):
    lr, decay, clip = 0.1, 0.1, 0.5
    student, w, m, v = adam_student(lr, decay=decay, clip=clip)
    empty, _, _ = oracles.adamw(w, np.zeros(3), m, v, 2, lr=lr, decay=decay)
    G = oracles.mean_gradient(w + empty, X, Y)
    assert not np.allclose(G, oracles.mean_gradient(w, X, Y), rtol=0.01)
    found = scored(FirstOrder(), context(student, tmp_path)).value
    for i in range(5):
        g = oracles.clipped(oracles.gradient(w, CX[i], CY[i]), clip)
        d, _, _ = oracles.adamw(w, g, m, v, 2, lr=lr, decay=decay)
        assert found[i] == pytest.approx(-G @ (d - empty), rel=1e-6, abs=1e-12)


def test_gradient_dot_is_the_inner_product(tmp_path):
    student, w, _, _ = adam_student(0.01)
    ctx = context(student, tmp_path)
    G = oracles.mean_gradient(w, X, Y)
    expected = [oracles.gradient(w, CX[i], CY[i]) @ G for i in range(5)]
    assert np.allclose(scored(GradientDot(), ctx).value, expected, rtol=1e-6)
    lengths = [np.linalg.norm(oracles.gradient(w, CX[i], CY[i])) for i in range(5)]
    cosine = np.array(expected) / np.array(lengths) / np.linalg.norm(G)
    assert np.allclose(scored(GradientDot(cosine=True), ctx).value, cosine, rtol=1e-6)


def test_a_student_without_moments_is_refused(tmp_path):
    student = testing.tiny_student()
    ctx = Context(student=student, reference=REFERENCE, warmup=[], scratch=tmp_path, seed=0)
    with pytest.raises(UserError, match="optimizer moments"):
        Exact().prepare(ctx)


def test_nothing_drifts_over_a_thousand_candidates(tmp_path):
    student, *_ = adam_student(0.05, decay=0.1, clip=0.5)
    score = Exact().prepare(context(student, tmp_path))
    before = student_state.snapshot(student)
    first = last = as_scores(score(CANDIDATES), len(CANDIDATES)).value
    for _ in range(200):
        last = as_scores(score(CANDIDATES), len(CANDIDATES)).value
    assert student_state.same(before, student_state.snapshot(student))
    assert np.array_equal(first, last)
