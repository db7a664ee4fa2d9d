"""LoRA adapters that change nothing, whose gradients are random projections of the weights'.

A linear layer y = W x becomes y = W x + B A x with B = 0, so outputs stay as they are, and ∇_B ℓ =
∇_W ℓ · Aᵀ: the full gradient seen through rank-many random directions of the input. With entries of
A drawn from N(0, 1/rank), inner products keep their expectation.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear as LoraLinear
from transformers import PreTrainedModel

from influbench.derivatives import layers
from influbench.errors import UserError
from influbench.files import digest

NAME = "projection"


@dataclass(frozen=True)
class Adapters:
    """What was injected."""

    weights: dict[str, torch.Tensor]
    """The B matrices by parameter name, shape [out, rank], all zero."""
    covered: int
    """How many parameters the adapted layers have: those that the gradients of B stand for."""


@contextmanager
def random_adapters(model: PreTrainedModel, rank: int, seed: int) -> Generator[Adapters]:
    """Adapts every trained linear layer but the output embedding; takes all adapters out again.

    Args:
        model: left exactly as found: modules, weights, flags and the global random state.
        rank: random input directions a layer.
        seed: of A; each layer draws from a stream of its own.

    Raises:
        UserError: the model trains no linear layer, or holds adapters already.
    """
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    original = _linear(model)
    config = LoraConfig(r=rank, lora_alpha=rank, lora_dropout=0.0, target_modules=list(original))
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", UserWarning
            )  # unknown model types, tied layers: harmless
            inject_adapter_in_model(config, model, NAME)
        yield _drawn(model, list(original), seed)
    finally:
        for name, module in original.items():
            model.set_submodule(name, module)
        vars(model).pop("peft_config", None)  # peft leaves its settings on the model
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(flags[name])


def _linear(model: PreTrainedModel) -> dict[str, torch.nn.Linear]:
    if any(isinstance(module, LoraLinear) for module in model.modules()):
        raise UserError(
            "the student holds LoRA adapters already: expected parameters = 'all', which are these"
        )
    return layers.linear(model)


def _drawn(model: PreTrainedModel, names: list[str], seed: int) -> Adapters:
    weights: dict[str, torch.Tensor] = {}
    named = dict(model.named_parameters())
    covered = 0
    for name in names:
        covered += named[f"{name}.base_layer.weight"].numel()
        a = named[f"{name}.lora_A.{NAME}.weight"]
        generator = torch.Generator().manual_seed(int(digest(f"{seed}:{name}")[:12], 16))
        with torch.no_grad():
            a.copy_(torch.randn(a.shape, generator=generator) * a.shape[0] ** -0.5)
        b = f"{name}.lora_B.{NAME}.weight"
        weights[b] = named[b]
    return Adapters(weights, covered)
