"""TRAK against an exact kernel, and the adapters that carry its projections."""

import numpy as np
import pytest
import torch

from influbench import testing
from influbench.derivatives import gradients
from influbench.derivatives.adapters import random_adapters
from influbench.errors import UserError
from influbench.estimator import Context, as_scores
from influbench.estimators.trak.checkpoints import following
from influbench.estimators.trak.trak import Trak
from influbench.testing import student_state

pytest.importorskip("trak", reason="needs the extra 'trak'")


@pytest.fixture
def tiny(tmp_path):
    return testing.tiny_context(tmp_path)


def margins(student, example):
    """Mean over response tokens of log p/(1-p), and of 1-p, from the plain model."""
    row = student.encode(example)
    logits = student.model(input_ids=torch.tensor([row.ids])).logits[0].double()
    targets = torch.tensor(row.ids[row.response_start :])
    p = logits[row.response_start - 1 : -1].softmax(-1).gather(1, targets[:, None])[:, 0]
    return (p.log() - (1 - p).log()).mean(), float((1 - p).detach().mean())


def test_without_projection_it_is_the_exact_kernel(tiny):
    student = tiny.student
    weights = [p for n, p in student.model.named_parameters() if "norm" in n]
    candidates = testing.tiny_examples("candidate", 5)

    def features(examples):
        found = [torch.autograd.grad(margins(student, e)[0], weights) for e in examples]
        return np.stack([torch.cat(g).double().numpy() for g in found])

    phi = features(tiny.warmup)
    kernel = phi.T @ phi
    inverse = np.linalg.inv(kernel + 0.2 * np.trace(kernel) / len(kernel) * np.eye(len(kernel)))
    wrongness = np.array([margins(student, c)[1] for c in candidates])
    expected = (features(candidates) @ inverse @ features(tiny.reference).T) * wrongness[:, None]

    method = Trak(proj_dim=None, parameters="norm", regularisation=0.2)
    got = as_scores(method.prepare(tiny)(candidates), 5)
    assert got.per_reference is not None
    unit = got.per_reference[0, 0] / expected[0, 0]  # traker's scores have no unit of their own
    assert unit > 0
    np.testing.assert_allclose(
        got.per_reference, expected * unit, rtol=2e-3, atol=1e-3 * unit * np.abs(expected).max()
    )
    assert got.diagnostics["projection_dim"] == sum(w.numel() for w in weights)


@pytest.mark.parametrize("kernel", ["each", "summed", "joint"])
def test_several_checkpoints_meet_in_the_kernel_that_is_told(tiny, kernel):
    student, share = tiny.student, 0.2
    weights = [p for n, p in student.model.named_parameters() if "norm" in n]
    candidates = testing.tiny_examples("candidate", 5)
    before = student_state.snapshot(student)
    phis, wrong = [], []
    for state in following(tiny, 2):
        with state.placed():
            rows = [*tiny.warmup, *tiny.reference, *candidates]
            found = [torch.autograd.grad(margins(student, e)[0], weights) for e in rows]
            phis.append(np.stack([torch.cat(g).double().numpy() for g in found]))
            wrong.append([margins(student, c)[1] for c in candidates])
    assert student_state.same(before, student_state.snapshot(student))
    assert not np.allclose(phis[0], phis[1], rtol=1e-3)

    def scores(fitted, told):
        matrix = fitted.T @ fitted
        inverse = np.linalg.inv(
            matrix + share * np.trace(matrix) / len(matrix) * np.eye(len(matrix))
        )
        inverse /= np.abs(inverse).mean()  # traker's own scale
        return told[-5:] @ inverse @ told[len(tiny.warmup) : -5].T

    w = len(tiny.warmup)
    if kernel == "joint":
        expected = scores(np.hstack([p[:w] for p in phis]), np.hstack(phis))
    else:
        whole = np.vstack([p[:w] for p in phis])
        expected = sum(scores(whole if kernel == "summed" else p[:w], p) for p in phis)
    expected = expected * np.mean(wrong, axis=0)[:, None]

    method = Trak(
        proj_dim=None, parameters="norm", regularisation=share, checkpoints=2, kernel=kernel
    )
    got = as_scores(method.prepare(tiny)(candidates), 5)
    assert got.per_reference is not None
    unit = got.per_reference[0, 0] / expected[0, 0]
    assert unit > 0
    limit = 2e-3 * unit * np.abs(expected).max()
    np.testing.assert_allclose(got.per_reference, expected * unit, rtol=5e-3, atol=limit)
    assert student_state.same(before, student_state.snapshot(student))


def test_the_log_likelihood_has_the_gradient_of_the_loss(tiny):
    candidates = testing.tiny_examples("candidate", 4)
    weights = [p for n, p in tiny.student.model.named_parameters() if "norm" in n]

    def features(examples):
        found = [gradients.gradient(tiny.student, weights, e) for e in examples]
        return np.stack([torch.cat([t.flatten() for t in g]).double().numpy() for g in found])

    phi = features(tiny.warmup)
    matrix = phi.T @ phi
    inverse = np.linalg.inv(matrix + 0.1 * np.trace(matrix) / len(matrix) * np.eye(len(matrix)))
    expected = features(candidates) @ inverse @ features(tiny.reference).T
    method = Trak(proj_dim=None, parameters="norm", output="log_likelihood")
    assert method.facts.passes == ("3W + 3M", "3")
    got = as_scores(method.prepare(tiny)(candidates), 4).per_reference
    assert got is not None
    unit = got[0, 0] / expected[0, 0]
    assert unit > 0
    np.testing.assert_allclose(
        got, expected * unit, rtol=2e-3, atol=1e-3 * unit * np.abs(expected).max()
    )


def test_further_checkpoints_keep_the_contract():
    testing.check_estimator(Trak(parameters="lora", proj_dim=32, checkpoints=2, kernel="joint"))


def test_projection_keeps_the_order_of_the_exact_kernel(tiny):
    candidates = testing.tiny_examples("candidate", 6)
    exact, projected = (
        as_scores(
            Trak(parameters="q_proj", proj_dim=k, regularisation=1.0).prepare(tiny)(candidates), 6
        ).value
        for k in (None, 1024)
    )
    assert np.corrcoef(exact, projected)[0, 1] > 0.98


def test_adapter_gradients_are_projections_of_weight_gradients(tiny):
    model, example = tiny.student.model, tiny.reference[0]
    name = "model.layers.1.mlp.up_proj"
    (full,) = gradients.gradient(tiny.student, [model.get_parameter(f"{name}.weight")], example)
    before = float(testing.loss_of_each(tiny.student, [example]).detach())
    with random_adapters(model, rank=3, seed=5) as adapters:
        a = model.get_parameter(f"{name}.lora_A.projection.weight").detach()
        b = adapters.weights[f"{name}.lora_B.projection.weight"]
        assert float(testing.loss_of_each(tiny.student, [example]).detach()) == pytest.approx(
            before, rel=1e-9
        )
        (projected,) = gradients.gradient(tiny.student, [b], example)
    torch.testing.assert_close(projected, full @ a.T, rtol=1e-4, atol=1e-7)


def test_adapters_leave_no_trace_even_after_an_error(tiny):
    model = tiny.student.model
    before = (dict(model.named_modules()), dict(model.named_parameters()), set(vars(model)))
    random_state = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="inside"), random_adapters(model, rank=2, seed=0):
        raise RuntimeError("inside")
    assert dict(model.named_modules()) == before[0]
    assert all(p is before[1][n] and p.requires_grad for n, p in model.named_parameters())
    assert set(vars(model)) == before[2]
    assert torch.equal(torch.get_rng_state(), random_state)


def test_lora_keeps_the_contract_and_says_what_it_covers(tiny):
    method = Trak(parameters="lora", proj_dim=64)
    testing.check_estimator(method)
    sizes = {n: p.numel() for n, p in tiny.student.model.named_parameters()}
    linear = sum(v for n, v in sizes.items() if "proj" in n)
    got = as_scores(method.prepare(tiny)(tiny.reference), len(tiny.reference))
    assert got.diagnostics["parameter_share"] == pytest.approx(linear / sum(sizes.values()))
    with pytest.raises(UserError, match=r"attributes 70\.8%"):
        Trak(parameters="lora", min_share=0.9).prepare(tiny)


def test_wrong_options_and_students_are_refused_in_one_line(tiny, tmp_path):
    with pytest.raises(UserError, match="'norms' matches no trainable parameter"):
        Trak(parameters="norms").prepare(tiny)
    with pytest.raises(UserError, match="set proj_dim"):
        Trak(proj_dim=None).prepare(tiny)
    with pytest.raises(ValueError, match="regularisation"):
        Trak(regularisation=0.0)
    model = testing.LeastSquares([1.0, 2.0])
    student = testing.ToyStudent(model, torch.optim.SGD(model.parameters(), lr=0.1))
    rows = [testing.toy_example("a", [1, 0], 1)]
    toy = Context(student=student, reference=rows, warmup=rows, scratch=tmp_path, seed=0)
    with pytest.raises(UserError, match="needs a language model as student, got ToyStudent"):
        Trak().prepare(toy)
