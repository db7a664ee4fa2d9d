"""A student from its folder: model, tokenizer, optimizer state, and the place where they fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from transformers import PreTrainedModel

from influbench import models
from influbench.data.records import ModelRef
from influbench.errors import UserError
from influbench.student import budgets, checkpoint, packing
from influbench.student.language_student import LanguageStudent
from influbench.student.placement import place
from influbench.student.settings import StudentSettings


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
