"""Which weights a student multiplies with in another dtype than the optimizer holds them in."""

from __future__ import annotations

from collections import Counter

import torch
from torch import nn


def linear_layers(model: nn.Module) -> dict[int, nn.Linear]:
    """Plain linear layers by the id of their weight, which no other module shares.

    A head tied to the embedding is left out: the embedding reads the same weight in fp32. Of these
    layers autocast rounds the fp32 weight in every batch, so that a copy rounded once will do.
    """
    uses = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    return {
        id(module.weight): module
        for module in model.modules()
        if type(module) is nn.Linear
        and uses[id(module.weight)] == 1
        and module.weight.dtype == torch.float32
    }
