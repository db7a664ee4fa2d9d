"""Methods that send candidates forward only (and the norm of their gradients), by hand."""

import copy
import dataclasses
from typing import Any

import numpy as np
import oracles
import pytest
import torch

from influbench import models, testing
from influbench.derivatives import gradients
from influbench.errors import UserError
from influbench.estimator import Context, as_scores, registry
from influbench.estimators.adam_jvp import AdamJvp
from influbench.estimators.excess_loss import ExcessLoss
from influbench.estimators.for_value import ForValue
from influbench.estimators.grad_norm import GradNorm
from influbench.estimators.ica import Ica
from influbench.estimators.icp import Icp
from influbench.estimators.loss_covariance import LossCovariance
from influbench.student import load_student
from influbench.student.demonstrations import shown
from influbench.testing import families

CANDIDATES = testing.tiny_examples("candidate", 4)
RNG = np.random.default_rng(5)
X, Y = RNG.normal(size=(4, 3)), RNG.normal(size=4)
CX, CY = RNG.normal(size=(5, 3)), RNG.normal(size=5)


@pytest.fixture
def tiny(tmp_path):
    return testing.tiny_context(tmp_path)


def toy(tmp_path, *, lr=1e-2, eps=1e-8, sgd=False):
    model = testing.LeastSquares([0.3, -0.7, 1.2])
    optimizer: torch.optim.Optimizer = (
        torch.optim.SGD(model.parameters(), lr=lr)
        if sgd
        else torch.optim.AdamW(model.parameters(), lr=lr, eps=eps, weight_decay=0.0)
    )
    student = testing.ToyStudent(model, optimizer)
    rows = [testing.toy_example(f"c{i}", CX[i], CY[i]) for i in range(5)]
    testing.warmed(student, rows)
    references = [testing.toy_example(f"r{i}", X[i], Y[i]) for i in range(4)]
    ctx = Context(student=student, reference=references, warmup=rows, scratch=tmp_path, seed=0)
    return ctx, rows


def scores(method, ctx, examples=CANDIDATES):
    return as_scores(method.prepare(ctx)(examples), len(examples))


def nll(student, turns):
    """Mean loss of the last answer of a conversation, by the plain model."""
    *earlier, (_, instruction), (_, response) = turns
    example = dataclasses.replace(
        CANDIDATES[0], instruction=instruction, response=response, earlier=tuple(earlier)
    )
    row = dataclasses.replace(student, learn="last").encode(example)
    with torch.no_grad():
        logs = student.model(input_ids=torch.tensor([row.ids])).logits[0].double().log_softmax(-1)
    return -np.mean([float(logs[t - 1, row.ids[t]]) for t in row.learned])


def test_demonstrations_stand_behind_the_system_turn_and_before_the_rest():
    told = (("system", "Be short."), ("user", "Hi"), ("assistant", "Hello"))
    asked = dataclasses.replace(CANDIDATES[0], earlier=told)
    other = dataclasses.replace(CANDIDATES[1], earlier=(("system", "Be long."),))
    roles = [role for role, _ in shown([other], asked).turns]
    assert roles == ["system", *["user", "assistant"] * 3]
    assert shown([other], asked).turns[1] == ("user", other.instruction)
    assert shown([other], asked).turns[0] == told[0]


def test_ica_is_the_drop_of_the_candidates_loss_in_a_context_of_references(tiny):
    everyone = Ica(k=len(tiny.reference))
    order = everyone._drawn(tiny, 0)
    assert {e.id for e in order} == {e.id for e in tiny.reference}
    context = tuple(turn for e in order for turn in e.turns)
    expected = [
        nll(tiny.student, c.turns) - nll(tiny.student, (*context, *c.turns)) for c in CANDIDATES
    ]
    np.testing.assert_allclose(scores(everyone, tiny).value, expected, rtol=1e-4, atol=1e-6)
    one, two = (scores(Ica(k=1, draws=n), tiny).value for n in (1, 2))
    assert not np.allclose(one, two)
    assert Ica(draws=3).facts.passes == ("0", "4")


def test_a_context_that_does_not_fit_is_refused_by_name(tiny):
    short = dataclasses.replace(tiny, student=dataclasses.replace(tiny.student, max_length=150))
    with pytest.raises(UserError, match=r"'candidate-0' has .* tokens, the student's context"):
        scores(Ica(k=4), short)


def test_icp_is_what_references_gain_from_the_candidate_as_an_example(tiny):
    student, pairs = tiny.student, tiny.reference
    expected = np.array(
        [
            [nll(student, r.turns) - nll(student, (*c.turns, *r.turns)) for r in pairs]
            for c in CANDIDATES
        ]
    )
    got = scores(Icp(), tiny)
    assert got.per_reference is not None
    np.testing.assert_allclose(got.per_reference, expected, rtol=1e-4, atol=1e-6)
    wins = scores(Icp("wins"), tiny).value
    np.testing.assert_allclose(wins, (expected > 0).mean(axis=1))


@pytest.mark.parametrize("k", [1, 3])
def test_excess_loss_after_gradient_descent_is_the_closed_form(k, tmp_path):
    ctx, rows = toy(tmp_path, sgd=True)
    model: Any = ctx.student.model
    start = model.weight.detach().numpy().copy()
    w = start.copy()
    for _ in range(k):
        w = w - 1e-2 * oracles.mean_gradient(w, X, Y)
    expected = (CX @ start - CY) ** 2 - (CX @ w - CY) ** 2
    for baseline in ("null", "before"):  # plain SGD has no momentum: an empty step moves nothing
        got = scores(ExcessLoss(k=k, baseline=baseline), ctx, rows).value
        np.testing.assert_allclose(got, expected, rtol=1e-9)
    np.testing.assert_array_equal(model.weight.detach().numpy(), start)


def test_excess_loss_of_one_adam_step_is_a_one_sided_adam_jvp(tmp_path):
    ctx, rows = toy(tmp_path, lr=1e-3, eps=100.0)  # ε hides v, which the references' step moves
    got = scores(ExcessLoss(), ctx, rows).value
    expected = scores(AdamJvp(), ctx, rows).value
    np.testing.assert_allclose(got, expected, rtol=0.05)
    drifting = scores(ExcessLoss(baseline="before"), ctx, rows).value
    assert not np.allclose(drifting, expected, rtol=0.1)


def test_for_value_is_the_gradient_dot_of_the_output_embeddings_own_use(tiny):
    student = tiny.student
    weight = student.model.get_output_embeddings().weight

    def head_gradient(example):
        (batch,) = student.batches([example])
        row, time, targets = batch.targets
        hidden = student.hidden(batch.tokens)[row, time].detach()
        held = weight.detach().clone().requires_grad_(True)
        loss = torch.nn.functional.cross_entropy(hidden @ held.T, targets)
        return torch.autograd.grad(loss, held)[0]

    mean = torch.stack([head_gradient(r) for r in tiny.reference]).mean(0)
    expected = [float((mean * head_gradient(c)).sum()) for c in CANDIDATES]
    got = scores(ForValue(), tiny)
    np.testing.assert_allclose(got.value, expected, rtol=1e-4)
    total = sum(p.numel() for p in student.model.parameters())
    assert got.diagnostics["parameter_share"] == pytest.approx(weight.numel() / total)


@pytest.mark.parametrize("family", ["granite", "cohere"])
def test_for_value_has_the_models_factor_on_logits(family, tmp_path):
    student = load_student(models.resolve(str(families.build(family, tmp_path / "m"))))
    references = testing.tiny_examples("reference", 2)
    ctx = Context(student=student, reference=references, warmup=[], scratch=tmp_path, seed=0)
    plain = copy.deepcopy(student.model)
    head: Any = plain.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach().clone())  # its own use alone

    def gradient(example):
        row = student.encode(example)
        logits = plain(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0]
        own = list(row.learned)
        loss = torch.nn.functional.cross_entropy(
            logits[[t - 1 for t in own]], torch.tensor([row.ids[t] for t in own])
        )
        return torch.autograd.grad(loss, head.weight)[0]

    mean = torch.stack([gradient(r) for r in references]).mean(0)
    expected = [float((mean * gradient(c)).sum()) for c in CANDIDATES]
    np.testing.assert_allclose(scores(ForValue(), ctx).value, expected, rtol=1e-4)


def test_grad_norm_is_the_length_of_the_gradient(tiny):
    weights = list(tiny.student.model.parameters())
    expected = [gradients.norm(gradients.gradient(tiny.student, weights, c)) for c in CANDIDATES]
    np.testing.assert_allclose(scores(GradNorm(), tiny).value, expected, rtol=1e-6)


def test_loss_covariance_tends_to_adam_jvp_with_many_draws(tmp_path):
    ctx, rows = toy(tmp_path)
    expected = scores(AdamJvp(), ctx, rows).value
    got = scores(LossCovariance(draws=2000, scale=1e-4), ctx, rows).value
    # Relative noise is about √(2/draws) over the cosine of the two gradients.
    assert np.corrcoef(got, expected)[0, 1] > 0.99
    np.testing.assert_allclose(got, expected, atol=0.15 * np.abs(expected).max())
    plain = scores(LossCovariance(draws=2000, preconditioner="none"), ctx, rows).value
    dots = scores(AdamJvp(preconditioner="none"), ctx, rows).value
    assert np.corrcoef(plain, dots)[0, 1] > 0.99


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (Ica, {"k": 0}, "'k' must be at least 1, got 0"),
        (ExcessLoss, {"k": 0}, "'k' must be at least 1, got 0"),
        (LossCovariance, {"draws": 3}, "'draws' must be even and at least 2, got 3"),
        (LossCovariance, {"scale": 0.0}, "'scale' must be above 0, got 0.0"),
    ],
)
def test_options_that_mean_nothing_are_refused_in_the_methods_own_words(method, options, message):
    with pytest.raises(ValueError, match=message):
        method(**options)
    name = f"{method.__module__}:{method.__name__}"
    with pytest.raises(UserError) as refused:
        registry.build(name, options)
    assert str(refused.value) == f"estimator '{name}': option {message}"
