"""Which weights take part in a method: those whose names match a pattern, or linear layers."""

from __future__ import annotations

import dataclasses
import re

import torch
from transformers import PreTrainedModel

from influbench.derivatives.update import Update
from influbench.errors import UserError


def chosen(update: Update, model: torch.nn.Module, pattern: str | None) -> tuple[Update, float]:
    """The step of the weights whose names match, and their share of all trainable parameters.

    Args:
        update: of all weights that are trained.
        model: whose names they have; a tied weight has one, its first.
        pattern: a regular expression that is searched in names; None = all.

    Raises:
        UserError: it is no regular expression, or matches no trained weight.
    """
    if pattern is None:
        return update, 1.0
    try:
        wanted = re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"option 'layers': expected a regular expression over names of weights, got "
            f"'{pattern}' ({error})"
        ) from error
    names = {id(weight): name for name, weight in model.named_parameters()}
    kept = tuple(s for s in update.slots if wanted.search(names[id(s.weight)]))
    if not kept:
        trained = [names[id(slot.weight)] for slot in update.slots]
        raise UserError(
            f"option 'layers': '{pattern}' matches none of the {len(trained)} weights that the "
            f"student trains; expected a pattern of names like {trained[:3]}"
        )
    total = sum(slot.weight.numel() for slot in update.slots)
    share = sum(slot.weight.numel() for slot in kept) / total
    return dataclasses.replace(update, slots=kept), share


def linear(model: PreTrainedModel) -> dict[str, torch.nn.Linear]:
    """The trained linear layers by name, all but the output embedding and what is inside it.

    Raises:
        UserError: there is none.
    """
    head = model.get_output_embeddings()
    outside = set() if head is None else set(head.modules())  # an adapter wraps the head's own
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and module not in outside
        and module.weight.requires_grad
    }
    if not found:
        raise UserError(
            "this method attributes linear layers (torch.nn.Linear) and the student trains none "
            "below its output embedding: choose one that takes all weights, such as gradient_dot"
        )
    return found
