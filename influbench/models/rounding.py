"""A compressed model as a name: ``NAME:bits=N``, any model with its linear layers rounded.

Such a student has something to learn from the model that it was made of: training it heals what
rounding broke. Weights are rounded to the nearest of ``2**N`` evenly spaced values between the
least and the largest of their group (asymmetric round-to-nearest, the baseline of GPTQ, arXiv
2210.17323, section 4), and kept as fp32 again: the damage is wanted here, not the small file.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from influbench.errors import UserError
from influbench.files import digest

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

GROUP = 32
"""Neighbouring weights of one row that share a scale and an offset."""
VERSION = 1
"""Raised when the same name would give other weights."""
MOST_BITS = 8


def split(name: str) -> tuple[str, int | None]:
    """The model and the bits that a name asks for; None where it asks for no rounding.

    Raises:
        UserError: bits that are not a number from 1 to 8, or no model before them.
    """
    found = re.fullmatch(r"(.*):bits=([^:/]*)", name)
    if found is None:
        return name, None
    base, bits = found.groups()
    if not base or not re.fullmatch(rf"[1-{MOST_BITS}]", bits):
        raise UserError(
            f"model '{name}': expected NAME:bits=N with N from 1 to {MOST_BITS}, for example "
            "smollm2-135m-instruct:bits=3"
        )
    return base, int(bits)


def identity(base: str, bits: int) -> str:
    """Digest of the model with digest ``base``, rounded."""
    return digest(json.dumps(["rounded", VERSION, base, bits, GROUP]))


def change(model: PreTrainedModel, number: int) -> PreTrainedModel:
    """The model itself, its linear layers rounded to so many bits."""
    round_linear(model, number)
    return model


def round_linear(model: PreTrainedModel, bits: int) -> int:
    """Rounds the weights of the linear layers in place; returns how many weights that were.

    Embeddings, the output layer (tied to them in small models), norms and biases stay.
    """
    import torch
    from torch import nn

    head = model.get_output_embeddings()
    count = 0
    for module in model.modules():
        if isinstance(module, nn.Linear) and module is not head:
            with torch.no_grad():
                module.weight.copy_(rounded(module.weight, bits))
            count += module.weight.numel()
    return count


def rounded(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """``weight``, shape [out, in], on ``2**bits`` levels a group; a last, short group has its own.

    Least and largest of a group stay what they are; a group of equal values stays whole.
    """
    import torch

    return torch.cat([_on_levels(part, bits) for part in weight.split(GROUP, dim=1)], dim=1)


def _on_levels(group: torch.Tensor, bits: int) -> torch.Tensor:
    import torch

    low, high = group.amin(1, keepdim=True), group.amax(1, keepdim=True)
    step = (high - low) / (2**bits - 1)
    level = torch.where(step > 0, (group - low) / step, 0.0).round()
    return low + level * step
