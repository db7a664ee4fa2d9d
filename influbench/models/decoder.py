"""The part of a causal language model that gives hidden states."""

from __future__ import annotations

from transformers import PreTrainedModel

from influbench.errors import UserError
from influbench.store.passes import backbone


def decoder_of(model: PreTrainedModel) -> PreTrainedModel:
    """All of a causal language model below its output embedding; what goes through it is counted.

    Raises:
        UserError: there is no such part.
    """
    found = backbone(model)
    if found is model or not isinstance(found, PreTrainedModel):
        raise UserError(
            f"model type '{model.config.model_type}' has no model inside it that gives hidden "
            "states: expected one, and an output embedding of them; take a model of another type "
            "(docs/models.md)"
        )
    return found
