"""The step's kernels: one formula, whatever the dtype and the memory that it is read from."""

import dataclasses
import subprocess
import sys

import pytest
import torch

from influbench import testing
from influbench.derivatives import gradients, step, step_kernels, streamed
from influbench.errors import UserError


@pytest.fixture
def student():
    held = testing.tiny_student()
    for group in held.optimizer.param_groups:
        group["weight_decay"] = 0.1
    testing.warmed(held, testing.tiny_examples("warmup", 8))
    return held


def found(student):
    update = step.next_update(student)
    example = testing.tiny_examples("candidate", 1)[0]
    return update, gradients.gradient(student, update.weights, example)


def away(update, dtype):
    """The same step for weights in use that are copies, in ``dtype``, of those held elsewhere."""
    slots = [
        dataclasses.replace(slot, weight=slot.weight.detach().to(dtype).clone(), held=slot.weight)
        for slot in update.slots
    ]
    return dataclasses.replace(update, slots=tuple(slots))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_from_weights_held_elsewhere_is_the_same_rounded_once(student, dtype):
    update, gradient = found(student)
    expected = [torch.empty_like(w) for w in update.weights]
    update.apply(gradient, expected)
    there = away(update, dtype)
    there.apply(gradient)
    for ours, right in zip(there.weights, expected, strict=True):
        assert torch.equal(ours, right.to(dtype))


@torch.no_grad()
def stepped(parts, kernel):
    for piece in parts:
        kernel(piece, 0.5)


def test_pieces_that_arrive_from_elsewhere_take_the_same_step(student, monkeypatch):
    update, gradient = found(student)
    kernel, _ = step_kernels.kernel_for(update.slots[0])
    monkeypatch.setattr(streamed, "SIZE", 100)  # several pieces a tensor
    out = [[torch.empty_like(w) for w in update.weights] for _ in range(2)]
    for target, size in zip(out, (100, None), strict=True):
        parts = step_kernels.pieces(update.slots, gradient, target, add=True, size=size)
        arrived = streamed.arriving(parts, torch.device("cpu")) if size else parts
        stepped(arrived, kernel)
    assert all(torch.equal(a, b) for a, b in zip(*out, strict=True))


def test_a_dot_with_the_step_needs_no_whole_step(student):
    update, gradient = found(student)
    direction = [torch.randn(w.shape) for w in update.weights]
    assert update.dot(direction, gradient) == gradients.dot(direction, update.delta(gradient))
    assert update.dot(direction, None) == gradients.dot(direction, update.delta(None))


def test_a_narrow_gradient_is_clipped_by_its_norm_in_the_weights_dtype(student):
    update, gradient = found(student)
    narrow = [g.bfloat16() for g in gradient]
    wide = [g.float() for g in narrow]
    assert update.scale(narrow) == pytest.approx(update.scale(wide), rel=1e-6)
    for ours, right in zip(update.delta(narrow), update.delta(wide), strict=True):
        assert torch.equal(ours, right)


def test_a_layer_with_a_narrow_copy_has_its_own_weight_again_afterwards():
    layer = torch.nn.Linear(3, 2)
    own = layer.weight
    cast = step.Cast(layer, torch.nn.Parameter(own.detach().bfloat16(), requires_grad=False))
    with cast.used():
        assert layer.weight is cast.copy
    assert layer.weight is own


TRITON = """
import os
os.environ["TRITON_INTERPRET"] = "1"
import torch
from influbench.derivatives import step_kernels, step_triton
torch.manual_seed(0)
for kept, narrow in ((0.1, False), (0.0, True)):
    w, m, v = torch.randn(5000), torch.randn(5000) * 0.01, torch.rand(5000) * 1e-4
    slot = step_kernels.Slot(w, (m, v), 7, 1e-3, kept, (0.9, 0.999), 1e-8, adam=True)
    for g in (None, torch.randn(5000), torch.randn(5000).bfloat16()):
        for add in (True, False):
            out = [torch.full_like(w, float("nan")) for _ in range(2)]
            for to, step in zip(out, (step_triton.step, step_kernels.by_passes)):
                gradients = None if g is None else [g]
                for piece in step_kernels.pieces([slot], gradients, [to], add=add, size=None):
                    step(piece, 0.7)
            assert torch.allclose(*out, rtol=1e-5, atol=1e-8), (kept, add)
"""


def test_the_gpu_kernel_interpreted_gives_what_the_passes_give():
    pytest.importorskip("triton")
    subprocess.run([sys.executable, "-c", TRITON], check=True)


def test_several_steps_from_masters_elsewhere_are_refused():
    update = step.next_update(testing.tiny_student(), needs_moments=False)
    held = tuple(dataclasses.replace(slot, held=slot.weight) for slot in update.slots)
    with pytest.raises(UserError, match="several steps in a row"):
        dataclasses.replace(update, slots=held).following(None)
