"""An untrained model as a name: ``NAME:random=SEED``, the same shape with weights drawn anew.

What says the same of such a student as of the trained one does not look at what the student has
learnt: the model randomisation test (Adebayo et al., "Sanity Checks for Saliency Maps", arXiv
1810.03292; for data attribution quanda, arXiv 2410.07158).
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from influbench.errors import UserError
from influbench.files import digest

if TYPE_CHECKING:
    from transformers import PreTrainedModel

VERSION = 1
"""Raised when the same name would give other weights."""


def split(name: str) -> tuple[str, int | None]:
    """The model and the seed that a name asks for; None where its weights stay.

    Raises:
        UserError: a seed that is no whole number, or no model before it.
    """
    found = re.fullmatch(r"(.*):random=([^:/]*)", name)
    if found is None:
        return name, None
    base, seed = found.groups()
    if not base or not re.fullmatch(r"\d{1,9}", seed):
        raise UserError(
            f"model '{name}': expected NAME:random=SEED with a whole number, for example "
            "smollm2-135m-instruct:random=0"
        )
    return base, int(seed)


def identity(base: str, seed: int) -> str:
    """Digest of the model with digest ``base``, drawn anew."""
    return digest(json.dumps(["redrawn", VERSION, base, seed]))


def change(model: PreTrainedModel, number: int) -> PreTrainedModel:
    """A model of the same shape with weights as its family starts a training with, from a seed."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(number)
        fresh: PreTrainedModel = AutoModelForCausalLM.from_config(
            model.config, trust_remote_code=False
        )
    fresh.generation_config = model.generation_config
    return fresh.eval()
