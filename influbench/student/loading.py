"""A student from its folder: model, tokenizer, optimizer state, and the place where they fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from influbench import models
from influbench.data.records import ModelRef
from influbench.errors import UserError, of_the_machine
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
    _check(model)
    beside = Path(ref.path) if settings.moments else None
    optimizer, history = checkpoint.optimizer_of(model, beside, told)
    _free_padding(model, optimizer)
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
def _check(model: PreTrainedModel) -> None:
    """Tries out whether the losses of ``model`` can be computed as those of a student are.

    Raises:
        UserError: it does not run, decoder and output embedding are not all of it, or a token's
            state hangs on what follows.
    """
    ids = torch.arange(3, 8, device=model.device)[None] % model.config.get_text_config().vocab_size
    try:
        theirs = model(input_ids=ids, use_cache=False).logits
    except Exception as error:  # a configuration that does not fit raises errors of any type
        if of_the_machine(error):
            raise
        told = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"transformers cannot run this model of type '{model.config.model_type}' on tokens "
            f"({told}): expected a causal language model whose configuration fits its weights"
        ) from error
    if not torch.isfinite(theirs).all():
        raise UserError(
            "the model's logits are NaN or infinite: its weights are, as a training that diverged "
            f"leaves them, or it overflows in {model.dtype}: expected one that writes text"
        )
    probe = LanguageStudent.__new__(LanguageStudent)
    object.__setattr__(probe, "model", model)
    states = probe.hidden(ids)
    try:
        ours = probe.head(states)
        same = torch.allclose(ours.float(), theirs.float(), rtol=1e-3, atol=1e-3)
    except RuntimeError as error:  # an output embedding of another width than the hidden state
        if of_the_machine(error):
            raise
        same = False
    if not same:
        raise UserError(
            f"model type '{model.config.model_type}' computes its logits in a way that influbench "
            "does not know: expected output embedding of the last hidden state (with a factor of "
            "the configuration, or Gemma's soft cap, at most)"
        )
    if not _causal(probe, ids, states):
        raise UserError(
            f"in this model of type '{model.config.model_type}' a token's state hangs on those "
            "that follow it and on other rows of a batch (Doge's experts are like that), so that "
            "a response has no loss of its own: expected a causal one, such as Doge without experts"
        )


def _free_padding(model: PreTrainedModel, optimizer: torch.optim.Optimizer | None) -> None:
    """Gives the padding token's row of the input embedding its gradient, where moments show one.

    The Trainer writes its tokenizer's padding token into the configuration of a model that was made
    without, and whose row was trained. With tied embeddings moments hold what the output embedding
    had, and show nothing.
    """
    embedding: Any = model.get_input_embeddings()
    head = model.get_output_embeddings()
    row = getattr(embedding, "padding_idx", None)
    weight: Any = getattr(embedding, "weight", None)
    if optimizer is None or row is None or weight is getattr(head, "weight", None):
        return
    state = optimizer.state.get(weight, {})
    kept = [v for v in state.values() if isinstance(v, torch.Tensor) and v.shape == weight.shape]
    if any(bool(moment[row].any()) for moment in kept):
        embedding.padding_idx = None


BEGUN = 3
"""Tokens whose states must not hang on those that follow."""
OTHERS = 4
"""Continuations that are tried in bf16."""


def _causal(probe: LanguageStudent, ids: torch.Tensor, states: torch.Tensor) -> bool:
    """Whether the states of the first tokens are the same whatever follows.

    In fp32 they are compared with those of the first tokens alone. In bf16 rounding may send a
    token to another expert, so that two states differ in a causal model too: there several
    continuations are tried, and in a causal model some two of them agree.
    """
    if states.dtype == torch.float32:
        return _near(probe.hidden(ids[:, :BEGUN]), states[:, :BEGUN])
    size = int(probe.model.config.get_text_config().vocab_size)
    found = [states[:, :BEGUN]]
    for turn in range(1, OTHERS + 1):
        tail = (ids[:, BEGUN:] + 7 * turn) % size
        found.append(probe.hidden(torch.cat([ids[:, :BEGUN], tail], dim=1))[:, :BEGUN])
        if any(_near(other, found[-1]) for other in found[:-1]):
            return True
    return False


def _near(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, rtol=0, atol=1e-2 * float(a.abs().max()))
