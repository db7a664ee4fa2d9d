"""Gradient estimators against closed forms and against gradients built one by one."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from influbench import testing
from influbench.derivatives import directional, gradients, step
from influbench.derivatives.bottlenecks import Bottlenecks
from influbench.derivatives.sketches import SignSketch
from influbench.errors import UserError
from influbench.estimator import Context, as_scores
from influbench.estimators.adam_jvp import AdamJvp
from influbench.estimators.datainf import DataInf
from influbench.estimators.exact import Exact
from influbench.estimators.first_order import FirstOrder
from influbench.estimators.less import Less
from influbench.estimators.logra import Logra
from influbench.statistics.agreement import spearman

RNG = np.random.default_rng(11)
W0 = np.array([0.3, -0.7, 1.2])
ROWS = {
    kind: (RNG.normal(size=(n, 3)), RNG.normal(size=n))
    for kind, n in (("r", 4), ("w", 5), ("c", 6))
}


def rows(kind):
    x, y = ROWS[kind]
    return [testing.toy_example(f"{kind}{i}", x[i], y[i]) for i in range(len(y))]


def gradient_rows(kind, w):
    x, y = ROWS[kind]
    return 2 * (x @ w - y)[:, None] * x


@pytest.fixture
def toy(tmp_path):
    """Least squares after three AdamW steps, with its weights and optimizer state as arrays."""
    return toy_context(tmp_path, 1e-2)


def toy_context(folder, lr):
    model = testing.LeastSquares(W0.tolist())
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=lr, weight_decay=0.0, betas=(0.9, 0.98), eps=1e-6
    )
    student = testing.ToyStudent(model, optimizer)
    testing.warmed(student, rows("w"))
    return Context(student=student, reference=rows("r"), warmup=rows("w"), scratch=folder, seed=0)


@pytest.fixture
def tiny(tmp_path):
    return testing.tiny_context(tmp_path)


def state(ctx):
    weight = ctx.student.model.weight
    slot = ctx.student.optimizer.state[weight]
    return (t.detach().numpy() for t in (weight, slot["exp_avg"], slot["exp_avg_sq"]))


def scores(method, ctx, examples):
    return as_scores(method.prepare(ctx)(examples), len(examples))


def each(got):
    assert got.per_reference is not None
    return got.per_reference


@pytest.mark.parametrize("method", ["jvp", "materialised", "central_difference"])
def test_adam_jvp_is_the_closed_form_on_least_squares(toy, method):
    w, _, v = state(toy)
    t = 4
    second = np.sqrt(0.98 * v / (1 - 0.98**t)) + 1e-6
    scaled = 1e-2 * (1 - 0.9) / (1 - 0.9**t) / second
    direction = scaled * gradient_rows("r", w).mean(axis=0)
    got = scores(AdamJvp(method=method), toy, rows("c")).value
    np.testing.assert_allclose(got, gradient_rows("c", w) @ direction, rtol=1e-5)


def test_adam_after_has_the_reference_gradient_in_its_second_moment(toy):
    w, _, v = state(toy)
    mean, t = gradient_rows("r", w).mean(axis=0), 4
    norm = np.linalg.norm(mean)
    clipped = mean * min(1, toy.student.clip_norm / norm) if toy.student.clip_norm else mean
    second = np.sqrt((0.98 * v + 0.02 * clipped**2) / (1 - 0.98**t)) + 1e-6
    direction = 1e-2 * (1 - 0.9) / (1 - 0.9**t) / second * mean
    got = scores(AdamJvp(preconditioner="adam_after"), toy, rows("c")).value
    np.testing.assert_allclose(got, gradient_rows("c", w) @ direction, rtol=1e-5)


def test_clipped_takes_each_gradient_as_the_training_would(toy):
    student = dataclasses.replace(toy.student, clip_norm=0.5)
    ctx = dataclasses.replace(toy, student=student)
    w, *_ = state(ctx)
    each, mean = gradient_rows("c", w), gradient_rows("r", w).mean(axis=0)
    norms = np.linalg.norm(each, axis=1)
    assert norms.min() < 0.5 < norms.max()
    method = AdamJvp(preconditioner="none", clipped=True, method="materialised")
    want = (each * np.minimum(1, 0.5 / norms)[:, None]) @ mean
    np.testing.assert_allclose(scores(method, ctx, rows("c")).value, want, rtol=1e-5)
    with pytest.raises(ValueError, match="'clipped' needs the norm"):
        AdamJvp(clipped=True)


def test_a_weight_that_the_warm_up_never_moved_outweighs_nothing_with_adam_after(toy):
    """Only the last feature is new: exact barely sees what frozen v makes the whole score."""
    moments = toy.student.optimizer.state[toy.student.model.weight]
    moments["exp_avg"][2] = moments["exp_avg_sq"][2] = 0.0
    references = [testing.toy_example("r", [1.0, -0.5, 1e-3], 2.0)]
    ctx = dataclasses.replace(toy, reference=references)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 3)), rng.normal(size=12)
    new = [testing.toy_example(f"n{i}", x[i], y[i]) for i in range(12)]
    exact = scores(Exact(), ctx, new).value
    frozen = scores(AdamJvp(), ctx, new).value
    after = scores(AdamJvp(preconditioner="adam_after"), ctx, new).value
    assert spearman(after, exact) > 0.8 > 0.5 > spearman(frozen, exact)


def test_without_preconditioner_and_with_cosine(toy):
    w, *_ = state(toy)
    mean, each = gradient_rows("r", w).mean(axis=0), gradient_rows("c", w)
    plain = scores(AdamJvp(preconditioner="none"), toy, rows("c")).value
    np.testing.assert_allclose(plain, each @ mean, rtol=1e-6)
    method = AdamJvp(preconditioner="none", cosine=True, method="materialised")
    cosine = each @ mean / np.linalg.norm(each, axis=1) / np.linalg.norm(mean)
    np.testing.assert_allclose(scores(method, toy, rows("c")).value, cosine, rtol=1e-6)


@pytest.mark.parametrize("preconditioner", ["adam", "adam_after", "none"])
def test_jvp_ghost_and_central_difference_agree_with_the_materialised_dot(tiny, preconditioner):
    candidates = testing.tiny_examples("candidate", 6)
    exact = scores(AdamJvp(method="materialised", preconditioner=preconditioner), tiny, candidates)
    variants: list[tuple[Any, float]] = [
        ("jvp", 1e-5),
        ("ghost", 1e-5),
        ("central_difference", 1e-3),
    ]
    for method, tolerance in variants:
        got = scores(AdamJvp(method=method, preconditioner=preconditioner), tiny, candidates)
        np.testing.assert_allclose(got.value, exact.value, rtol=tolerance)
        assert got.diagnostics["parameter_share"] == 1.0


@pytest.mark.parametrize("method", ["ghost", "central_difference"])
def test_variants_keep_the_contract(method):
    estimator: Any = AdamJvp(method=method)
    testing.check_estimator(estimator)


def test_the_chosen_step_reports_its_error_and_a_bad_step_is_worse(tiny):
    update = step.next_update(tiny.student)
    direction = gradients.mean_gradient(tiny.student, update.weights, tiny.reference)
    probes = tiny.warmup[:3]
    size, error = directional.chosen_step(tiny.student, update.weights, direction, probes)
    exact = [
        gradients.dot(direction, gradients.gradient(tiny.student, update.weights, e))
        for e in probes
    ]
    measured = directional.by_central_difference(tiny.student, update.weights, direction, size)(
        probes
    )
    assert error == pytest.approx(np.linalg.norm(measured - exact) / np.linalg.norm(exact))
    wild = directional.by_central_difference(tiny.student, update.weights, direction, 1.0)(probes)
    assert np.linalg.norm(wild - exact) > 10 * np.linalg.norm(measured - exact)


def test_ghost_that_misses_parameters_says_so_and_is_refused(tiny, monkeypatch):
    # As if the student's embedding and head were not modules that a hook can see.
    modules = type(tiny.student.model).modules
    monkeypatch.setattr(
        type(tiny.student.model),
        "modules",
        lambda self: (
            m
            for m in modules(self)
            if not isinstance(m, torch.nn.Embedding) and m is not self.lm_head
        ),
    )
    sizes = {n: p.numel() for n, p in tiny.student.model.named_parameters()}
    share = 1 - sizes["model.embed_tokens.weight"] / sum(sizes.values())
    with pytest.raises(UserError, match=f"attributes {share:.1%} of the trainable parameters"):
        AdamJvp(method="ghost").prepare(tiny)
    partial = scores(AdamJvp(method="ghost", min_share=0.5), tiny, tiny.reference)
    assert partial.diagnostics["parameter_share"] == pytest.approx(share)


def test_ghost_needs_a_language_model_and_cosine_needs_gradients(toy):
    with pytest.raises(UserError, match=r"needs a language model .*got ToyStudent"):
        AdamJvp(method="ghost").prepare(toy)
    with pytest.raises(ValueError, match="cosine"):
        AdamJvp(cosine=True)


def test_enough_share_passes(tiny):
    assert tiny.share(0.8, 0.8) == 0.8
    with pytest.raises(UserError, match=r"79\.0%"):
        tiny.share(0.79, 0.8)


def relative_error(method, folder, lr):
    ctx = toy_context(folder, lr)
    exact = scores(Exact(), ctx, rows("c")).value
    return np.abs(scores(method, ctx, rows("c")).value - exact).max() / np.abs(exact).max()


@pytest.mark.parametrize("curvature", ["none", "calibrated"])
def test_first_order_tends_to_the_exact_influence_as_the_learning_rate_vanishes(
    tmp_path, curvature
):
    method = FirstOrder(curvature=curvature, probes=5)
    errors = [relative_error(method, tmp_path, lr) for lr in (1e-1, 1e-2, 1e-3)]
    # The error is of second order in the step, the score of first: tenfold smaller each time.
    assert errors[1] < errors[0] / 5
    assert errors[2] < errors[1] / 5
    assert errors[2] < 1e-2


def test_calibration_adds_the_mean_gap_of_the_probes_and_reports_what_is_left(tiny):
    plain, exact = (scores(m, tiny, tiny.warmup) for m in (FirstOrder(), Exact()))
    gap = exact.value - plain.value
    got = scores(FirstOrder(curvature="calibrated", probes=8), tiny, tiny.warmup)
    np.testing.assert_allclose(got.value, plain.value + gap.mean(), rtol=1e-9)
    assert got.diagnostics["curvature_offset"] == pytest.approx(gap.mean())
    assert got.diagnostics["curvature_residual"] == pytest.approx(gap.std(ddof=1))
    candidates = testing.tiny_examples("candidate", 12)
    truth = scores(Exact(), tiny, candidates).value
    errors = [
        np.abs(scores(FirstOrder(curvature=c), tiny, candidates).value - truth).mean()
        for c in ("none", "calibrated")
    ]
    assert errors[1] < errors[0]


@pytest.mark.parametrize("formula", ["code", "paper"])
def test_less_without_projection_is_the_cosine_of_adam_features(toy, formula):
    w, m, v = state(toy)
    g = gradient_rows("c", w)
    first, second = 0.9 * m + 0.1 * g, 0.98 * v + 0.02 * g**2
    if formula == "code":
        feature = first / np.sqrt(second + 1e-6)
    else:
        feature = first / (1 - 0.9**4) / (np.sqrt(second / (1 - 0.98**4)) + 1e-6)
    reference = gradient_rows("r", w)
    feature /= np.linalg.norm(feature, axis=1, keepdims=True)
    reference /= np.linalg.norm(reference, axis=1, keepdims=True)
    got = scores(Less(proj_dim=None, formula=formula), toy, rows("c"))
    np.testing.assert_allclose(each(got), feature @ reference.T, rtol=1e-6)


def test_sign_sketch_keeps_inner_products():
    generator = torch.Generator().manual_seed(0)
    weights = [torch.zeros(30, 40), torch.zeros(77)]
    a, b = ([torch.randn(w.shape, generator=generator) for w in weights] for _ in range(2))
    b = [x + y for x, y in zip(a, b, strict=True)]
    exact = gradients.dot(a, b)
    dots = []
    for seed in range(50):
        sketch = SignSketch(weights, 256, seed)
        dots.append(float(sketch(a) @ sketch(b)))
    noise = gradients.norm(a) * gradients.norm(b) / 256**0.5
    assert abs(np.mean(dots) - exact) < 4 * noise / 50**0.5
    assert 0.5 * noise < np.std(dots) < 3 * noise


def test_less_projection_stays_near_the_unprojected_scores(tiny):
    candidates = testing.tiny_examples("candidate", 6)
    whole = scores(Less(proj_dim=None), tiny, candidates).value
    assert np.abs(scores(Less(), tiny, candidates).value - whole).max() < 4 / 8192**0.5


def test_bottleneck_gradients_are_two_sided_projections(tiny):
    student, examples = tiny.student, testing.tiny_examples("candidate", 3)
    project = Bottlenecks(student, 4, 0)
    got = project(examples)
    for number, (name, (into, outof)) in enumerate(project._sides.items()):
        weight = student.model.get_parameter(f"{name}.weight")
        for row, example in enumerate(examples):
            (full,) = gradients.gradient(student, [weight], example)
            expected = (into @ full.T @ outof.T).flatten()
            torch.testing.assert_close(got[row, number].float(), expected, rtol=1e-3, atol=1e-6)


def test_logra_is_the_damped_inverse_covariance_layer_by_layer(tiny):
    from influbench.files import digest

    method = Logra(rank=2, damping=0.3)
    project = Bottlenecks(tiny.student, 2, int(digest("logra:0")[:8], 16))
    candidates = testing.tiny_examples("candidate", 3)
    fitted, references, found = (
        project(e).numpy() for e in (tiny.warmup, tiny.reference, candidates)
    )
    expected = np.zeros((3, len(references)))
    for layer in range(fitted.shape[1]):
        f = fitted[:, layer].T @ fitted[:, layer] / len(fitted)
        inverse = np.linalg.inv(f + 0.3 * np.trace(f) / len(f) * np.eye(len(f)))
        expected += found[:, layer] @ inverse @ references[:, layer].T
    got = scores(method, tiny, candidates)
    np.testing.assert_allclose(each(got), expected, rtol=1e-6)
    assert 0.5 < got.diagnostics["parameter_share"] < 1
    with pytest.raises(UserError, match="min_share"):
        dataclasses.replace(method, min_share=0.99).prepare(tiny)


def test_datainf_is_the_mean_of_the_inverses(toy):
    w, *_ = state(toy)
    g = gradient_rows("w", w)
    damping = 0.1 * (g**2).mean()
    inverse = np.mean([np.linalg.inv(damping * np.eye(3) + np.outer(j, j)) for j in g], axis=0)
    direction = inverse @ gradient_rows("r", w).mean(axis=0)
    got = scores(DataInf(), toy, rows("c")).value
    np.testing.assert_allclose(got, gradient_rows("c", w) @ direction, rtol=1e-6)
