"""Random projections of whole gradients that need no matrix."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from influbench.files import digest


class SignSketch:
    """Flips signs at random and folds the vector onto ``dim`` coordinates, in one sweep.

    Feature hashing (Weinberger et al., arXiv 0902.2206) with the hash i mod ``dim``: since the
    signs are independent, inner products are kept in expectation, with a relative error of about
    1/√dim.
    """

    def __init__(self, weights: Sequence[torch.Tensor], dim: int, seed: int):
        self._dim = dim
        self._signs = [_signs(w, f"{seed}:{i}") for i, w in enumerate(weights)]

    def __call__(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        """The sketch of one gradient, shape [dim], fp32.

        Args:
            tensors: one a weight, in the order given at the start.
        """
        total = torch.zeros(self._dim, device=tensors[0].device)
        for tensor, sign in zip(tensors, self._signs, strict=True):
            flat = tensor.reshape(-1).float() * sign
            total += functional.pad(flat, (0, -len(flat) % self._dim)).view(-1, self._dim).sum(0)
        return total


def _signs(weight: torch.Tensor, key: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(int(digest(key)[:12], 16))
    bits = torch.randint(0, 2, (weight.numel(),), generator=generator, dtype=torch.int8)
    return (bits * 2 - 1).to(weight.device)
