"""A student from its folder: model, tokenizer, optimizer state, and the place where they fit."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from transformers import PreTrainedModel

from influbench import models
from influbench.data.records import ModelRef
from influbench.errors import UserError
from influbench.models import conversation
from influbench.student import budgets, checkpoint, packing
from influbench.student.history import Told
from influbench.student.language_student import Compute, LanguageStudent
from influbench.student.placement import Placement, place


@dataclass(frozen=True)
class StudentSettings:
    """How a student is held for scoring."""

    device: str = "auto"
    dtype: str = "float32"
    compute: Compute = "float32"
    attention: Literal["sdpa", "eager"] = "sdpa"
    max_length: int | None = None
    """Cut examples here; None = refuse those longer than the context."""
    learn: conversation.Learn = "all"
    """Which assistant turns of a conversation count."""
    token_budget: int | None = None
    """Padded tokens in one batch; None = what the memory allows (``budgets``)."""
    placement: Placement = "auto"
    fused: bool = False
    moments: bool = True
    """Whether the optimizer in its folder is looked at, if there is one."""
    told: Told = field(default_factory=Told)
    """How it steps, where that is not as its folder says."""


def load_student(ref: ModelRef, settings: StudentSettings | None = None) -> LanguageStudent:
    """Loads a student with the optimizer state beside it, where its folder holds one.

    Without one that can be used the optimizer is AdamW without moments; methods that need moments
    refuse it with the reason.

    Raises:
        UserError: the folder holds no model of a kind that is known.
    """
    settings = settings or StudentSettings()
    told = settings.told
    device = torch.device(models.device_of(settings.device))
    # What may not fit the device is looked at in host memory first.
    first = device if settings.placement == "device" else torch.device("cpu")
    loaded = models.load(
        ref,
        dtype=settings.dtype,
        device=str(first),
        attention=settings.attention,
        keep_adapter=checkpoint.keeps_adapter(Path(ref.path), told),
    )
    model, tokenizer = loaded.model, loaded.tokenizer
    _check_head(model)
    beside = Path(ref.path) if settings.moments else None
    optimizer, history = checkpoint.optimizer_of(model, beside, told)
    context = models.context_length(model)
    held = LanguageStudent(
        model=model,
        tokenizer=tokenizer,
        optimizer=optimizer,
        clip_norm=history.clip_norm,
        max_length=min(settings.max_length or context, context),
        cut=settings.max_length is not None,
        token_budget=settings.token_budget or budgets.ON_A_CPU,
        compute=settings.compute,
        packed=packing.works(model),
        learn=settings.learn,
        history=history,
        fused=settings.fused,
    )
    held = place(held, device, settings.placement)
    if settings.token_budget or device.type != "cuda":
        return held
    without, learning = budgets.measured(held)
    return replace(held, token_budget=without, learning_budget=learning)


@torch.inference_mode()
def _check_head(model: PreTrainedModel) -> None:
    """Fails when decoder + output embedding is not the whole model (logits scaled in some way)."""
    ids = torch.arange(3, 8, device=model.device)[None] % model.config.get_text_config().vocab_size
    probe = LanguageStudent.__new__(LanguageStudent)
    object.__setattr__(probe, "model", model)
    ours = probe.head(probe.hidden(ids))
    theirs = model(input_ids=ids, use_cache=False).logits
    if not torch.allclose(ours.float(), theirs.float(), rtol=1e-3, atol=1e-3):
        raise UserError(
            f"model type '{model.config.model_type}' computes its logits in a way that influbench "
            "does not know: expected output embedding of the last hidden state (with a factor of "
            "the configuration, or Gemma's soft cap, at most)"
        )
