"""Two ways to train a model that leaves little room: adapters, and layers computed twice."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from influbench.errors import UserError
from influbench.models.decoder import decoder_of
from influbench.student import packing

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def with_adapter(model: PreTrainedModel, *, rank: int, alpha: int, seed: int) -> Any:
    """The model with a LoRA adapter (arXiv 2106.09685) in every linear layer but the head.

    Only the adapter learns; ``merge_and_unload()`` makes the model itself the trained one.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    lora = LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, lora)


@contextmanager
def recomputed(model: PreTrainedModel, wanted: bool, setting: str) -> Generator[None]:
    """Inside, a training keeps what goes into each layer, and computes the rest again going back.

    Gradients are the same; a step takes a third more and needs the activations of one layer
    (gradient checkpointing, arXiv 1604.06174).

    Args:
        model: that learns.
        wanted: whether at all.
        setting: that asks for it, for the error message.

    Raises:
        UserError: the model's family cannot.
    """
    if not wanted:
        yield
        return
    if not model.supports_gradient_checkpointing:
        raise UserError(
            f"{setting} = true: models of type '{model.config.model_type}' keep their activations: "
            "leave it out, or take a smaller batch"
        )
    told = {"use_reentrant": False, "context_fn": lambda: packing.again(decoder_of(model))}
    model.activation_checkpointing_enable(told)
    try:
        yield
    finally:
        model.activation_checkpointing_disable()
