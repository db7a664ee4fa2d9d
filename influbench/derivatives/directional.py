"""Derivative of each example's loss along one direction of the weights, in three ways that agree.

    d(z) = ⟨w, ∇ℓ(z)⟩ = d/dε ℓ(z; θ + εw) at ε = 0

No gradient of any example is ever built: the cost per example is two to three forward passes, in
batches.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel

from influbench.data.records import Example
from influbench.derivatives import gradients
from influbench.derivatives.gradients import Tensors
from influbench.errors import UserError
from influbench.estimator import Array, Batch, Student
from influbench.student import LanguageStudent
from influbench.student.losses import CHUNK

Derivative = Callable[[Sequence[Example]], Array]
"""Examples to their directional derivatives, shape [example], fp64."""

STEPS = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
"""Central-difference steps tried, as ‖εw‖ / ‖θ‖."""


class _Losses(torch.nn.Module):
    """A student's losses as a module, so that ``functional_call`` can replace its weights."""

    def __init__(self, student: Student):
        super().__init__()
        self.network = student.model
        self.student = student

    def forward(self, batch: Batch) -> torch.Tensor:
        return self.student.loss(batch)


def by_forward_mode(student: Student, weights: Tensors, direction: Tensors) -> Derivative:
    """One dual-number forward pass a batch (``torch.func.jvp``); any student."""
    module = _Losses(student)
    names = {id(p): name for name, p in module.named_parameters()}
    held = {names[id(w)]: w.detach() for w in weights}
    along = dict(zip(held, direction, strict=True))

    def derivative(examples: Sequence[Example]) -> Array:
        out = np.empty(len(examples))
        for batch in gradients.learning_batches(student, examples):

            def losses(values: dict[str, torch.Tensor], batch: Batch = batch) -> torch.Tensor:
                return torch.func.functional_call(module, values, (batch,))

            # The fused kernels of attention and of experts have no forward-mode derivative.
            with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), _plain_experts(student.model):
                tangent = _tangent(losses, held, along)
            out[list(batch.positions)] = tangent.double().cpu().numpy()
        return out

    return derivative


def _tangent(
    losses: Callable[[dict[str, torch.Tensor]], torch.Tensor],
    held: dict[str, torch.Tensor],
    along: dict[str, torch.Tensor],
) -> torch.Tensor:
    """Derivative of the losses along a direction.

    Raises:
        UserError: some part of the model has no derivative in forward mode.
    """
    try:
        return torch.func.jvp(losses, (held,), (along,))[1]
    except torch.OutOfMemoryError:
        raise
    except (NotImplementedError, RuntimeError) as error:
        raise UserError(
            "the student has a part without a derivative in forward mode "
            f"({' '.join(str(error).split())[:120]}): use method = 'materialised', 'ghost' or "
            "'central_difference'"
        ) from error


@contextmanager
def _plain_experts(model: torch.nn.Module) -> Generator[None]:
    """Experts of a mixture one after the other, each by plain products."""
    config = getattr(model, "config", None)
    before = getattr(config, "_experts_implementation", None)
    if not isinstance(model, PreTrainedModel) or before in (None, "eager"):
        yield
        return
    model.set_experts_implementation("eager")
    try:
        yield
    finally:
        model.set_experts_implementation(before)


def by_central_difference(
    student: Student, weights: Tensors, direction: Tensors, step: float
) -> Derivative:
    """[ℓ(θ + εw) - ℓ(θ - εw)] / 2ε: two plain forward passes; any student.

    Where the optimizer holds weights of which those in use are rounded copies, these are moved and
    rounded anew.

    Args:
        student: weights are moved, and put back to what they are now.
        weights: the moved tensors.
        direction: w, one tensor a weight.
        step: ‖εw‖ / ‖θ‖; too small drowns in rounding, too large in curvature.
    """
    size = gradients.norm(direction)
    epsilon = step * gradients.norm([w.detach() for w in weights]) / size if size else 0.0
    held = gradients.masters(student, weights)
    saved = [h if h is not w else w.detach().clone() for w, h in zip(weights, held, strict=True)]

    @torch.no_grad()
    def derivative(examples: Sequence[Example]) -> Array:
        if not epsilon:
            return np.zeros(len(examples))
        sides: list[Array] = []
        try:
            for sign in (1.0, -1.0):
                for weight, before, along in zip(weights, saved, direction, strict=True):
                    base = before.to(weight.device, non_blocking=True)
                    torch.add(base, along, alpha=sign * epsilon, out=weight)
                sides.append(gradients.losses(student, examples))
        finally:
            for weight, before in zip(weights, saved, strict=True):
                weight.copy_(before)
        return (sides[0] - sides[1]) / (2 * epsilon)

    return derivative


def chosen_step(
    student: Student, weights: Tensors, direction: Tensors, probes: Sequence[Example]
) -> tuple[float, float]:
    """The step of ``STEPS`` with the smallest error on ``probes``, and that error.

    The error is ‖difference - derivative‖ / ‖derivative‖ over the probes.
    """
    exact = np.array(
        [gradients.dot(direction, gradients.gradient(student, weights, e)) for e in probes]
    )
    errors = []
    for step in STEPS:
        got = by_central_difference(student, weights, direction, step)(probes)
        errors.append(float(np.linalg.norm(got - exact) / max(np.linalg.norm(exact), 1e-30)))
    best = int(np.argmin(errors))
    return STEPS[best], errors[best]


class Ghost:
    """Batched backward pass without weight gradients (the "ghost" inner product); language models.

    Where the gradient b of a module's output comes by on its way back, the change of that output
    along the module's own part of w is computed from the kept inputs, and b · change is summed by
    row: for a linear layer Σ_s b_sᵀ W a_s. Embeddings, a tied head and norms take part like all
    others.
    """

    def __init__(self, student: LanguageStudent, weights: Tensors, direction: Tensors):
        self._student = student
        self._along = {id(w): d for w, d in zip(weights, direction, strict=True)}
        head = student.model.get_output_embeddings()
        # With what is inside it: an adapter wraps the head, or a trained copy of it.
        self._head = set() if head is None else set(head.modules())
        self._modules = [
            m
            for m in student.model.modules()
            if any(id(p) in self._along for p in m.parameters(recurse=False))
        ]
        self._derivative = torch.zeros(0)
        self._row_index = torch.zeros(0)
        self._embedded: list[torch.Tensor] = []
        self._busy = False
        self._seen: set[int] = set()
        self._total = sum(w.numel() for w in weights)
        self._sizes = {id(w): w.numel() for w in weights}

    def share(self) -> float:
        """Of the weights, those whose modules were called so far."""
        return sum(self._sizes[key] for key in self._seen) / self._total

    def __call__(self, examples: Sequence[Example]) -> Array:
        """The derivatives, shape [example]."""
        student = self._student
        out = np.empty(len(examples))
        embedding = student.model.get_input_embeddings()
        handles = [embedding.register_forward_hook(self._start)]
        handles += [m.register_forward_hook(self._watch) for m in self._modules]
        try:
            # The head is then called once a batch, or for one row only: its rows are known.
            for batch in student.batches(examples, learning=True, at_most=CHUNK):
                self._row_index = batch.targets[0]
                self._derivative = torch.zeros(
                    len(batch.rows), dtype=torch.float64, device=batch.device
                )
                with torch.enable_grad():
                    total = student.loss(batch).sum()
                    torch.autograd.grad(total, self._embedded.pop())
                out[list(batch.positions)] = self._derivative.cpu().numpy()
        finally:
            self._embedded.clear()
            for handle in handles:
                handle.remove()
        return out

    def _start(self, _: torch.nn.Module, __: tuple[Any, ...], output: torch.Tensor) -> None:
        """Where the way back ends; what a frozen embedding gives needs no gradient by itself."""
        if not self._busy:
            self._embedded.append(output.requires_grad_())

    def _watch(self, module: torch.nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self._busy:
            return
        rows = len(self._derivative)
        shape = tuple(output.shape) if isinstance(output, torch.Tensor) else None
        if shape is None or (module not in self._head and shape[0] != rows):
            what = "several outputs" if shape is None else f"an output of shape {shape}"
            raise UserError(
                f"the ghost product does not know {type(module).__name__}, which has {what} for "
                f"{rows} examples: use method = 'jvp'"
            )
        self._seen.update(id(p) for p in module.parameters(recurse=False) if id(p) in self._along)
        kind = output.device.type
        rounded = torch.is_autocast_enabled(kind)
        inputs = tuple(a.detach() if isinstance(a, torch.Tensor) else a for a in args)

        def take(gradient: torch.Tensor) -> None:
            self._busy = True
            try:
                with torch.no_grad(), torch.autocast(kind, torch.bfloat16, enabled=rounded):
                    change = self._change(module, inputs)
            finally:
                self._busy = False
            left, right = gradient.float().flatten(1), change.float().flatten(1)
            products = torch.bmm(left[:, None], right[:, :, None])[:, 0, 0].double()
            if module in self._head:
                self._derivative.index_add_(0, self._row_index[: len(products)], products)
            else:
                self._derivative += products

        output.register_hook(take)

    def _change(self, module: torch.nn.Module, args: tuple[Any, ...]) -> torch.Tensor:
        """Derivative of the module's output along its own part of w."""
        own = {n: p for n, p in module.named_parameters(recurse=False) if id(p) in self._along}
        along = {name: self._along[id(p)] for name, p in own.items()}
        if type(module) is torch.nn.Linear:
            bias = along.get("bias")
            if "weight" in along:
                return functional.linear(args[0], along["weight"], bias)
        if type(module) is torch.nn.Embedding:
            return functional.embedding(args[0], along["weight"])
        held = {name: p.detach() for name, p in own.items()}
        return torch.func.jvp(
            lambda values: torch.func.functional_call(module, values, args), (held,), (along,)
        )[1]
