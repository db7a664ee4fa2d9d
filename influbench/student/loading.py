"""A student from its folder: model, tokenizer, optimizer state, and the place where they fit."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedModel, Trainer

from influbench import models
from influbench.errors import UserError
from influbench.models import conversation
from influbench.records import ModelRef
from influbench.student import budgets, packing
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


def load_student(ref: ModelRef, settings: StudentSettings | None = None) -> LanguageStudent:
    """Loads a student with the optimizer state beside it, where its folder holds one.

    Without one the optimizer is AdamW without moments; estimators that need moments refuse it.

    Raises:
        UserError: the optimizer state does not fit the model.
    """
    settings = settings or StudentSettings()
    device = torch.device(models.device_of(settings.device))
    # What may not fit the device is looked at in host memory first.
    first = device if settings.placement == "device" else torch.device("cpu")
    loaded = models.load(
        ref,
        dtype=settings.dtype,
        device=str(first),
        attention=settings.attention,
    )
    model, tokenizer = loaded.model, loaded.tokenizer
    _check_head(model)
    optimizer, clip_norm = load_optimizer(model, Path(ref.path))
    context = models.context_length(model)
    held = LanguageStudent(
        model=model,
        tokenizer=tokenizer,
        optimizer=optimizer,
        clip_norm=clip_norm,
        max_length=min(settings.max_length or context, context),
        cut=settings.max_length is not None,
        token_budget=settings.token_budget or budgets.ON_A_CPU,
        compute=settings.compute,
        packed=packing.works(model),
        learn=settings.learn,
        fused=settings.fused,
    )
    held = place(held, device, settings.placement)
    if settings.token_budget or device.type != "cuda":
        return held
    without, learning = budgets.measured(held)
    return replace(held, token_budget=without, learning_budget=learning)


def load_optimizer(
    model: PreTrainedModel, folder: Path
) -> tuple[torch.optim.Optimizer, float | None]:
    """The AdamW of a warm-up or of a Hugging Face Trainer checkpoint, and the training's clip norm.

    Raises:
        UserError: the state holds other parameters than the model has.
    """
    path = folder / "optimizer.pt"
    if not path.is_file():
        return torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.0), 1.0
    state = torch.load(path, map_location=model.device, weights_only=True)
    names, clip_norm = _checkpoint_facts(folder, model, state)
    parameters = dict(model.named_parameters())
    groups: list[dict[str, Any]] = []
    for group in state["param_groups"]:
        held = [names[i] for i in group["params"]]
        unknown = [name for name in held if name not in parameters]
        if unknown:
            raise UserError(
                f"{path} holds the state of '{unknown[0]}', which the model in {folder} does not "
                "have: expected the optimizer of this very model"
            )
        groups.append({"params": [parameters[name] for name in held]})
    optimizer = torch.optim.AdamW(groups)
    for index, slot in state["state"].items():
        expected, got = parameters[names[index]].shape, slot["exp_avg"].shape
        if expected != got:
            raise UserError(
                f"{path}: moments of '{names[index]}' have shape {tuple(got)}, the weight has "
                f"{tuple(expected)}: expected the optimizer of this very model"
            )
    optimizer.load_state_dict(state)
    return optimizer, clip_norm


def _checkpoint_facts(
    folder: Path, model: PreTrainedModel, state: dict[str, Any]
) -> tuple[dict[int, str], float | None]:
    """Parameter names by their number in the state, and the clip norm of the training."""
    ours = folder / "warmup.json"
    if ours.is_file():
        facts = json.loads(ours.read_text())
        return dict(enumerate(facts["names"])), facts["clip_norm"]
    clip: float | None = 1.0  # the Trainer's default; a checkpoint keeps its arguments in a pickle
    arguments = folder / "training_args.bin"
    if arguments.is_file():
        clip = torch.load(arguments, weights_only=False).max_grad_norm or None
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    if len(state["param_groups"]) == 1:
        return dict(enumerate(trained)), clip
    # The Trainer numbers decayed weights first, then biases and norms, each in model order.
    decayed = set(Trainer.get_decay_parameter_names(None, model))  # type: ignore[arg-type]
    order = [n for n in trained if n in decayed] + [n for n in trained if n not in decayed]
    return dict(enumerate(order)), clip


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
            "does not know: expected output embedding of the last hidden state (with Gemma's soft "
            "cap at most)"
        )
