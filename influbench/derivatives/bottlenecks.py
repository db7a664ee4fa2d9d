"""Two-sided random projections of each linear layer's gradient, a whole batch in one backward pass.

A bottleneck that adds nothing, y = W x + Bᵀ E A x with E = 0, has the gradient ∇_E ℓ = B (∇_W ℓ)
Aᵀ: the layer's gradient seen through ``rank`` random directions of its input and of its output.
With an E for each row, one backward pass gives them for each example, and no weight gradient is
ever built.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from influbench.data.records import Example
from influbench.derivatives import layers
from influbench.errors import UserError
from influbench.files import digest
from influbench.student import LanguageStudent

BATCH_TOKENS = 1024
"""Padded tokens in one batch: activations are kept for the backward pass."""


class Bottlenecks:
    """Projected gradients of all trained linear layers but the output embedding.

    Raises:
        UserError: there is none.
    """

    def __init__(self, student: LanguageStudent, rank: int, seed: int):
        self._student = student
        self._rank = rank
        self._layers = layers.linear(student.model)
        self._sides = {
            name: (
                _directions(rank, layer.in_features, f"{seed}:{name}:in", layer.weight),
                _directions(rank, layer.out_features, f"{seed}:{name}:out", layer.weight),
            )
            for name, layer in self._layers.items()
        }

    def share(self) -> float:
        """Of the trainable parameters, those whose gradients are projected."""
        trainable = {id(p): p.numel() for p in self._student.model.parameters() if p.requires_grad}
        covered = {id(layer.weight) for layer in self._layers.values()}
        return sum(trainable.get(key, 0) for key in covered) / sum(trainable.values())

    def __call__(self, examples: Sequence[Example]) -> torch.Tensor:
        """Shape [example, layer, rank · rank], fp64."""
        student, device = self._student, self._student.model.device
        shape = len(examples), len(self._layers), self._rank * self._rank
        out = torch.empty(shape, dtype=torch.float64, device=device)
        for batch in student.batches(examples, learning=True, at_most=BATCH_TOKENS):
            middle = {
                name: torch.zeros(
                    len(batch.rows), self._rank, self._rank, device=device, requires_grad=True
                )
                for name in self._layers
            }
            handles = [
                layer.register_forward_hook(self._add(name, middle[name]))
                for name, layer in self._layers.items()
            ]
            try:
                with torch.enable_grad():
                    total = student.loss(batch).sum()
                found = torch.autograd.grad(total, list(middle.values()))
            finally:
                for handle in handles:
                    handle.remove()
            out[list(batch.positions)] = torch.stack([g.flatten(1) for g in found], dim=1).double()
        return out

    def _add(self, name: str, middle: torch.Tensor) -> Callable[..., torch.Tensor]:
        into, outof = self._sides[name]

        def hook(_: Any, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            if args[0].ndim != 3 or args[0].shape[0] != len(middle):
                raise UserError(
                    f"layer '{name}' got an input of shape {tuple(args[0].shape)} for "
                    f"{len(middle)} examples, as in DoRA and in mixtures of experts: expected "
                    "[example, time, width]; choose a method that takes all weights, such as "
                    "gradient_dot"
                )
            return output + (args[0] @ into.T) @ middle.to(output.dtype) @ outof

        return hook


def _directions(rank: int, width: int, key: str, like: torch.Tensor) -> torch.Tensor:
    """Shape [rank, width], entries N(0, 1/rank)."""
    generator = torch.Generator().manual_seed(int(digest(key)[:12], 16))
    return (torch.randn(rank, width, generator=generator) * rank**-0.5).to(like)
