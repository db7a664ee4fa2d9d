"""Counts sequences sent through a model, forward and backward, without touching what it computes.

An identity at the end of the backbone counts gradients and forward-mode tangents on their way
through it, so ``backward``, ``torch.autograd.grad``, ``torch.func`` transforms (``vmap``, ``grad``,
``jvp`` and their nestings) and ``functional_call`` are all seen; a batch hidden by ``vmap`` counts
in full.

What a count means:
* forward: one per sequence; a tangent pushed through it (``jvp``) is one more;
* a decoding step (one position on top of a cache) adds its position but no sequence;
* rows packed into one sequence (argument ``packing``) count as many as they are;
* backward: one per sequence and gradient that passes the backbone's output; a double backward
  counts again;
* layers recomputed under gradient checkpointing are part of the backward pass;
* ``torch.autograd.grad(..., is_grads_batched=True)`` hides how many gradients it sends: they count
  as one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, cast

import torch
from torch import nn
from torch._C import _functorch  # pyright: ignore[reportAttributeAccessIssue]  # written in C++


class Sink(Protocol):
    """Takes what the hooks see."""

    def forward(self, sequences: int, positions: int) -> None:
        """``sequences`` of ``positions`` token positions in all, padding included, went forward."""
        ...

    def backward(self, sequences: int) -> None:
        """A gradient for ``sequences`` went backward."""
        ...


@contextmanager
def counted(backbones: Iterable[nn.Module], sink: Sink) -> Generator[None]:
    """Reports every pass through ``backbones`` to ``sink`` while open.

    A deep copy made meanwhile carries the hook with it and goes on reporting to the same sink.
    """
    watched = list(backbones)
    handles = [b.register_forward_hook(_hook(sink), with_kwargs=True) for b in watched]
    for module in watched:
        _SINKS.setdefault(id(module), []).append(sink)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module in watched:
            _SINKS[id(module)].remove(sink)


@contextmanager
def uncounted() -> Generator[None]:
    """Passes inside are not reported: those that only record a graph, to be replayed later."""
    _UNCOUNTED.append(True)
    try:
        yield
    finally:
        _UNCOUNTED.pop()


def reported(module: nn.Module, *, forward: int, backward: int, positions: int) -> None:
    """Reports passes through ``module``, or a copy of it, that were made without its code here.

    Replayed graphs, and toolkits in processes of their own.

    Args:
        module: a backbone; nothing happens where nobody counts it.
        forward: sequences that went forward.
        backward: sequences whose gradient went backward.
        positions: token positions that went forward in all, padding included.
    """
    for sink in _SINKS.get(id(module), []):
        sink.forward(forward, positions)
        sink.backward(backward)


_SINKS: dict[int, list[Sink]] = {}
"""Who counts the passes of each backbone, by its id."""

_UNCOUNTED: list[bool] = []
"""Not empty while passes are not to be reported."""


def backbone(model: nn.Module) -> nn.Module:
    """The part of ``model`` that every pass goes through once, under adapters and heads.

    For Hugging Face models that is the network below the head: the student calls it directly and
    applies the head to some positions only. It is what transformers calls the decoder (OPT's base
    model is not run by who runs that), but Llama 4, whose decoder is said to be the whole model,
    has it as the one model inside. Any other module is its own backbone.
    """
    modeling = sys.modules.get("transformers.modeling_utils")
    if modeling is not None:  # else no such model can exist, and importing takes seconds
        for module in model.modules():
            if isinstance(module, modeling.PreTrainedModel):
                kind, hf = modeling.PreTrainedModel, cast("Any", module)
                inside = [child for child in module.children() if isinstance(child, kind)]
                said = [hf.get_decoder(), hf.base_model, *(inside if len(inside) == 1 else [])]
                found = [own for own in said if isinstance(own, kind) and own is not module]
                return cast("nn.Module", [*found, module][0])
    return model


def _hook(sink: Sink) -> Callable[..., Any]:
    # A plain function: copy.deepcopy of a model copies a bound method's object, a function never.
    def count(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        if _UNCOUNTED:
            return output
        rows, positions = _shape(args, kwargs)
        name, tensor = _first_tensor(output)
        times = _hidden_batch(tensor)
        sink.forward(rows * times, positions * times)
        watched = _Watch.apply(tensor, sink, rows, positions, times)
        if isinstance(output, torch.Tensor):
            return watched
        if isinstance(output, tuple):
            return (*output[:name], watched, *output[name + 1 :])
        output[name] = watched
        return output

    return count


class _Watch(torch.autograd.Function):
    """The identity; reports what passes through its derivatives."""

    generate_vmap_rule = True

    @staticmethod
    def forward(tensor: torch.Tensor, *_: Any) -> torch.Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG004
        _, ctx.sink, ctx.rows, ctx.positions, ctx.times = inputs

    @staticmethod
    def backward(
        ctx: Any, *grad_outputs: torch.Tensor
    ) -> tuple[torch.Tensor, None, None, None, None]:
        (gradient,) = grad_outputs
        # A fixed cotangent has no batch of its own; a Jacobian's has more than the output's.
        ctx.sink.backward(ctx.rows * max(ctx.times, _hidden_batch(gradient)))
        return gradient, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, *grad_inputs: torch.Tensor) -> torch.Tensor:
        tangent = grad_inputs[0]
        times = max(ctx.times, _hidden_batch(tangent))
        ctx.sink.forward(ctx.rows * times, ctx.positions * times)
        return tangent.view_as(tangent)


def _hidden_batch(tensor: torch.Tensor) -> int:
    """How many tensors ``vmap`` shows as this one."""
    times = 1
    while _functorch.is_functorch_wrapped_tensor(tensor):
        inner = _functorch.get_unwrapped(tensor)
        if _functorch.is_batchedtensor(tensor):
            times *= inner.shape[_functorch.maybe_get_bdim(tensor)]
        tensor = inner
    return times


def _shape(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, int]:
    """Sequences and token positions of one call, as the call sees them (a ``vmap`` left out).

    Integers are ids, shape [sequence, position]; anything else has features on its last axis. A
    tensor of fewer than two axes is one sequence.
    """
    named = [kwargs[n] for n in ("input_ids", "inputs_embeds") if kwargs.get(n) is not None]
    given = named or [v for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor)]
    assert given, "expected a model that is called with a tensor"
    tensor = given[0]
    features = tensor.is_floating_point() and tensor.ndim > 0
    positions = (tensor.shape[:-1] if features else tensor.shape).numel()
    cache = kwargs.get("past_key_values")
    if cache is not None and tensor.ndim > 1 and tensor.shape[1] == 1 < cache.get_seq_length():
        return 0, positions
    if kwargs.get("packing") is not None:
        return kwargs["packing"].rows, positions
    return (tensor.shape[0] if tensor.ndim > 1 else 1), positions


def _first_tensor(output: Any) -> tuple[Any, torch.Tensor]:
    """Where the first tensor of ``output`` is, and that tensor."""
    if isinstance(output, torch.Tensor):
        return None, output
    if isinstance(output, Mapping):
        found = [(k, v) for k, v in output.items() if isinstance(v, torch.Tensor)]
    elif isinstance(output, tuple):
        found = [(i, v) for i, v in enumerate(output) if isinstance(v, torch.Tensor)]
    else:
        found = []
    assert found, f"expected a tensor, tuple or mapping from a metered model, got {type(output)}"
    return found[0]
