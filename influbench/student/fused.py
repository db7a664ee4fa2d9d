"""Decoder layers whose element-wise work is fused by the compiler, for passes without gradients.

Between the products of a layer stand norms, rotations, activations and sums; run one by one they
read and write memory thirty times, fused about five times. One layer is compiled for all: they
differ in their weights alone. Products and attention stay the libraries'.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedModel

_COMPILED: WeakKeyDictionary[torch.nn.Module, Any] = WeakKeyDictionary()
"""The compiled call of each layer met so far."""


def possible(device: torch.device) -> bool:
    """Whether there is a GPU, and the compiler for it."""
    return device.type == "cuda" and find_spec("triton") is not None


@contextmanager
def layers(decoder: PreTrainedModel, backend: str = "inductor") -> Generator[None]:
    """The decoder's layers, compiled, for as long as this is open.

    Args:
        decoder: its layers stand in ``layers``; one without is left as it is.
        backend: torch.compile's.
    """
    found = getattr(decoder, "layers", None)
    # Any: torch keeps the compiled call under a name of its own
    own: list[Any] = [*found] if isinstance(found, torch.nn.ModuleList) else []
    before = [layer._compiled_call_impl for layer in own]
    for layer in own:
        if layer not in _COMPILED:
            _COMPILED[layer] = torch.compile(layer._call_impl, dynamic=True, backend=backend)
        layer._compiled_call_impl = _COMPILED[layer]
    try:
        yield
    finally:
        for layer, call in zip(own, before, strict=True):
            layer._compiled_call_impl = call
