"""Methods on a student that trains some of its weights only, or holds them in few digits."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from influbench import testing
from influbench.derivatives import gradients, step
from influbench.derivatives.adapters import random_adapters
from influbench.derivatives.bottlenecks import Bottlenecks
from influbench.errors import UserError
from influbench.estimator import as_scores, registry

CANDIDATES = testing.tiny_examples("candidate", 6)


@pytest.fixture
def tiny(tmp_path):
    return testing.tiny_context(tmp_path)


def training(ctx, optimizer: Any = torch.optim.AdamW, **options):
    """The student with an optimizer of the weights that require a gradient, after a warm-up."""
    held: Any = ctx.student
    weights = [p for p in held.model.parameters() if p.requires_grad]
    student = dataclasses.replace(held, optimizer=optimizer(weights, lr=1e-2, **options))
    return dataclasses.replace(ctx, student=student)


def partly(ctx):
    """The last layer alone is trained."""
    for name, weight in ctx.student.model.named_parameters():
        weight.requires_grad_("layers.1." in name)
    return training(ctx)


def adapted(ctx, **options):
    """Trained in an adapter's own weights, far from where they begin."""
    told: dict[str, Any] = {"r": 4, "target_modules": ["q_proj", "down_proj"], **options}
    model = get_peft_model(ctx.student.model, LoraConfig(task_type="CAUSAL_LM", **told)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)
    student = dataclasses.replace(ctx.student, model=model.get_base_model())
    return training(dataclasses.replace(ctx, student=student))


def values(ctx, name, **options):
    scorer = registry.build(name, options).prepare(ctx)
    return as_scores(scorer(CANDIDATES), len(CANDIDATES))


def test_logra_projects_the_gradients_of_trained_layers_alone(tiny):
    whole = set(Bottlenecks(tiny.student, 2, 0)._layers)
    ctx = partly(tiny)
    assert set(Bottlenecks(ctx.student, 2, 0)._layers) == {n for n in whole if "layers.1." in n}
    assert 0.9 < values(ctx, "logra").diagnostics["parameter_share"] < 1


@pytest.mark.parametrize("more", [{}, {"modules_to_save": ["lm_head"]}], ids=["layers", "head"])
@pytest.mark.filterwarnings("ignore")  # of tied embeddings
def test_logra_of_an_adapter_is_by_its_own_matrices(tiny, more):
    ctx = adapted(tiny, **more)
    layers = Bottlenecks(ctx.student, 2, 0)._layers
    assert len(layers) == 2 * 2 * 2  # A and B of two layers' two matrices
    assert all("lora_" in name for name in layers)
    share = values(ctx, "logra").diagnostics["parameter_share"]
    assert share == 1 if not more else 0 < share < 1


@pytest.mark.filterwarnings("ignore")
def test_layers_that_are_called_without_rows_are_one_line(tiny):
    with pytest.raises(UserError, match=r"as in DoRA.*gradient_dot"):
        values(adapted(tiny, use_dora=True), "logra")


def test_a_student_that_trains_no_linear_layer_is_one_line(tiny):
    for name, weight in tiny.student.model.named_parameters():
        weight.requires_grad_("norm" in name)
    with pytest.raises(UserError, match="trains none below its output embedding"):
        values(training(tiny), "logra")


def test_adapters_of_trak_stand_for_trained_layers_alone(tiny):
    ctx = partly(tiny)
    total = sum(p.numel() for p in ctx.student.model.parameters() if p.requires_grad)
    with random_adapters(ctx.student.model, rank=2, seed=0) as found:
        assert all("layers.1." in name for name in found.weights)
        assert 0.9 * total < found.covered < total


@pytest.mark.parametrize(
    "more",
    [{"modules_to_save": ["lm_head"]}, {"target_modules": ["q_proj", "lm_head"]}],
    ids=["saved", "adapted"],
)
@pytest.mark.filterwarnings("ignore")  # of tied embeddings
def test_the_ghost_product_knows_a_head_inside_an_adapter(tiny, more):
    ctx = adapted(tiny, **more)
    got, right = (
        values(ctx, "adam_jvp", method=method, preconditioner="none")
        for method in ("ghost", "materialised")
    )
    assert got.value == pytest.approx(right.value, rel=1e-4)
    assert got.diagnostics["parameter_share"] == 1


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_that_has_not_stepped_yet_gains_its_momentum_on_the_way(tiny, momentum, decay):
    ctx = training(tiny, torch.optim.SGD, momentum=momentum, weight_decay=decay)
    student = dataclasses.replace(ctx.student, clip_norm=None)
    ctx = dataclasses.replace(ctx, student=student)
    got = values(ctx, "excess_loss", k=3, baseline="before").value
    weights = step.next_update(student).weights
    before = gradients.losses(student, CANDIDATES)
    for _ in range(3):
        found = gradients.mean_gradient(student, weights, ctx.reference)
        for weight, gradient in zip(weights, found, strict=True):
            weight.grad = gradient
        student.optimizer.step()
    after = gradients.losses(student, CANDIDATES)
    np.testing.assert_allclose(got, before - after, rtol=1e-4)


def test_products_of_narrow_gradients_keep_their_digits():
    generator = torch.Generator().manual_seed(0)
    left, right = (
        [torch.randn(400, generator=generator).bfloat16() for _ in range(3)] for _ in range(2)
    )
    right_sum = sum(float(a.double() @ b.double()) for a, b in zip(left, right, strict=True))
    assert gradients.dot(left, right) == pytest.approx(right_sum, rel=1e-5)
    assert gradients.dot(left, [r.float() for r in right]) == pytest.approx(right_sum, rel=1e-5)


def test_the_dot_of_a_narrow_step_keeps_its_digits(tiny):
    tiny.student.model.bfloat16()
    for state in tiny.student.optimizer.state.values():
        for name in ("exp_avg", "exp_avg_sq"):
            state[name] = state[name].bfloat16()
    update = step.next_update(tiny.student)
    gradient = gradients.gradient(tiny.student, update.weights, CANDIDATES[0])
    change = update.delta(gradient)
    right = sum(
        float((g.double() * c.double()).sum()) for g, c in zip(gradient, change, strict=True)
    )
    assert update.dot(gradient, gradient) == pytest.approx(right, rel=1e-5)


@pytest.mark.parametrize("name", ["excess_loss", "loss_covariance"])
def test_methods_that_move_narrow_weights_say_how_many_move(tiny, name):
    assert "weights_moved" not in values(tiny, name).diagnostics
    tiny.student.model.bfloat16()
    for state in tiny.student.optimizer.state.values():
        for moment in ("exp_avg", "exp_avg_sq"):
            state[moment] = state[moment].bfloat16()
    assert 0 < values(tiny, name).diagnostics["weights_moved"] < 0.95


@pytest.mark.parametrize("name", ["excess_loss", "loss_covariance"])
def test_they_say_so_of_narrow_products_too(tiny, name):
    student = dataclasses.replace(tiny.student, compute="bfloat16")
    told = values(dataclasses.replace(tiny, student=student), name).diagnostics
    assert 0 < told["weights_moved"] < 0.95
