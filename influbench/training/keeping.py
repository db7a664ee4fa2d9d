"""States of a training that are kept: a model on the way, and an optimizer beside its model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from influbench import models
from influbench.data.records import ModelRef
from influbench.store import Entry

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

KEPT = "kept"
"""Folder of an entry with one model a step that was kept, and the fact that lists the steps."""

Keep = Callable[[int, "torch.optim.Optimizer"], None]
"""Called with a step just done whose state is to be kept, and the optimizer."""


def kept_steps(steps: int, count: int) -> list[int]:
    """The ``count`` steps at even shares of a training, the last one its end; fewer if it is short.

    Example:
        >>> kept_steps(12, 4)
        [3, 6, 9, 12]
    """
    return sorted({max(1, round(steps * k / count)) for k in range(1, count + 1)})


def folder_of(step: int) -> str:
    """Where in an entry the state after a step is kept."""
    return f"{KEPT}/{step}"


def kept_models(entry: Entry) -> dict[float, ModelRef]:
    """The models that a training kept on the way, by the share of its steps; none if none were."""
    total = entry.meta["steps"]
    return {
        step / total: entry.model(folder_of(step))
        for step in entry.meta.get(KEPT, ())
        if (entry.path / folder_of(step)).is_dir()
    }


def save_with_optimizer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    optimizer: torch.optim.Optimizer,
    folder: Path,
    *,
    clip_norm: float | None,
    step: int,
    learning_rate: float | None = None,
) -> None:
    """Saves a student as the estimators step from it: weights, moments, ``warmup.json``.

    Args:
        model: trained; of an adapter its own weights are saved.
        tokenizer: the model's.
        optimizer: over weights of the model.
        folder: where to.
        clip_norm: of the training; None = no clipping.
        step: steps done.
        learning_rate: of the next step; None = the optimizer's own. Within a schedule that decays,
            steps at different places are only alike in size at one rate.
    """
    import torch

    from influbench.models import adapter

    save = adapter.save if adapter.held_by(model) else models.save
    save(model, tokenizer, folder)
    state = optimizer.state_dict()
    if learning_rate is not None:
        groups = [{**group, "lr": learning_rate} for group in state["param_groups"]]
        state = {**state, "param_groups": groups}
    torch.save(state, folder / "optimizer.pt")
    names = {id(weight): name for name, weight in model.named_parameters()}
    facts = {
        "names": [names[id(w)] for group in optimizer.param_groups for w in group["params"]],
        "clip_norm": clip_norm,
        "step": step,
        "lr": state["param_groups"][0]["lr"],
    }
    (folder / "warmup.json").write_text(json.dumps(facts) + "\n")
