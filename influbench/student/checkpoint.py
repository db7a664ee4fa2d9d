"""The optimizer in a student's folder: of our warm-up, or of a Hugging Face Trainer's checkpoint.

Only tensors, numbers and texts are read from these files; nothing in them is run.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from transformers import PreTrainedModel

from influbench.errors import UserError
from influbench.models import adapter
from influbench.models.sources import ADAPTER
from influbench.student import (
    numbering,
    optimizer_kinds,
    rates,
    state_numbers,
    training_args,
)
from influbench.student.history import History, Told
from influbench.student.numbering import Entry, UnclearError

FILE = "optimizer.pt"
"""As both write it."""
IN_SHARDS = ("global_step*", "optimizer_[0-9]*", "zero_to_fp32.py", "optimizer.bin")
"""What DeepSpeed and FSDP leave in its place."""
State = dict[str, Any]


def keeps_adapter(folder: Path, told: Told, *, warmed: bool = False) -> bool:
    """Whether the student in ``folder`` is an adapter that is not to be merged.

    Args:
        folder: of a model or an adapter.
        told: what is wanted.
        warmed: whether a warm-up gives it moments.
    """
    if not (folder / ADAPTER).is_file():
        return False
    kept = warmed or (folder / FILE).is_file()
    return told.adapter == "keep" or (told.adapter == "auto" and kept)


def why_none(folder: Path) -> str:
    """Why there is no optimizer in a folder without one, as the end of a sentence."""
    if any(any(folder.glob(pattern)) for pattern in IN_SHARDS):
        return f"the optimizer in {folder} is in shards of DeepSpeed or FSDP, which are not read"
    found = sorted(folder.glob(f"checkpoint-*/{FILE}"), key=lambda p: p.stat().st_mtime)
    beside = f", but one in {found[-1].parent}" if found else ""
    return f"the student has no optimizer moments (there is no {FILE} in {folder}{beside})"


def optimizer_of(
    model: PreTrainedModel, folder: Path | None, told: Told
) -> tuple[torch.optim.Optimizer, History]:
    """The optimizer in ``folder`` over the weights of ``model``, and what is known of its training.

    Without a folder it is that of a model without one. Weights that it does not hold are frozen.
    Where there is no optimizer that can be used, it is AdamW without moments and the history says
    why.

    Raises:
        UserError: no weight has a name as told.
    """
    state, names, history = _read(model, folder, told)
    weights = dict(model.named_parameters())
    held = [n for group in names for n in group]
    for name, weight in weights.items():
        weight.requires_grad_(name in set(held))
    if state is None:
        return torch.optim.AdamW([weights[n] for n in held], lr=0.0, weight_decay=0.0), history
    kind = torch.optim.SGD if history.optimizer == "SGD" else torch.optim.AdamW
    optimizer = kind([{"params": [weights[n] for n in group]} for group in names], lr=0.0)
    optimizer.load_state_dict(state)
    if history.optimizer == "AdamW":
        for name in held:  # what never had a gradient starts as AdamW starts it
            weight = weights[name]
            if not optimizer.state.get(weight):
                optimizer.state[weight] = {
                    "step": torch.tensor(0.0),
                    "exp_avg": torch.zeros_like(weight),
                    "exp_avg_sq": torch.zeros_like(weight),
                }
    return optimizer, history


def history_of(model: PreTrainedModel, folder: Path, told: Told) -> History:
    """What is known of the training, from names and shapes of the weights alone.

    Raises:
        UserError: no weight has a name as told.
    """
    return _read(model, folder, told)[2]


def _read(
    model: PreTrainedModel, folder: Path | None, told: Told
) -> tuple[State | None, list[list[str]], History]:
    """The state with the learning rates of the step, names of its weights, and what is known."""
    trainable = _trainable(model, told)
    if folder is None:
        return None, [trainable], _without("it was not looked at", model, trainable, told)
    path = folder / FILE
    if not path.is_file():
        return None, [trainable], _without(why_none(folder), model, trainable, told)
    try:
        if (folder / ADAPTER).is_file() and not adapter.held_by(model):
            raise UnclearError("its moments are an adapter's, which student.adapter=merge merges")
        state = _loaded(path, model)
        optimizer_kinds.count_by_weight(state)
        optimizer = optimizer_kinds.kind_of(state["param_groups"], [*state["state"].values()])
        state_numbers.check(state)
        facts = _own(folder)
        names = _names(model, state, trainable, facts)
        clip, clip_from = _clip(folder, told, facts)
    except UnclearError as error:
        why = f"{path} cannot be used: {error}"
        return None, [trainable], _without(why, model, trainable, told)
    rate, rate_from = rates.put(
        state["param_groups"], folder, FILE if facts is None else "the warm-up's", told
    )
    steps = [float(slot["step"]) for slot in state["state"].values() if "step" in slot]
    history = History(
        optimizer=optimizer,
        learning_rate=rate,
        rate_from=rate_from,
        clip_norm=clip,
        clip_from=clip_from,
        steps=int(max(steps, default=0)) or rates.steps(folder),
        weight_decay=max(float(group["weight_decay"]) for group in state["param_groups"]),
        trained=_described(model, [n for group in names for n in group]),
    )
    return state, names, history


def _trainable(model: PreTrainedModel, told: Told) -> list[str]:
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    if told.trained is None:
        return names
    try:
        found = [n for n in names if re.search(told.trained, n)]
    except re.error as error:
        raise UserError(
            f"student.trained: expected a regular expression, got '{told.trained}' ({error})"
        ) from error
    if not found:
        raise UserError(
            f"student.trained: no weight has a name with '{told.trained}': expected a pattern of "
            f"names such as {names[0]} and {names[-1]}"
        )
    return found


def _without(why: str, model: PreTrainedModel, trainable: Sequence[str], told: Told) -> History:
    clip = 1.0 if told.clip_norm is None else told.clip_norm or None
    return History(clip_norm=clip, trained=_described(model, trainable), why_not=why)


def _described(model: PreTrainedModel, held: Sequence[str]) -> str:
    weights = dict(model.named_parameters())
    count, of = sum(weights[n].numel() for n in held), sum(p.numel() for p in weights.values())
    if len(held) == len(weights):
        return f"all {len(weights)} are trained ({count} numbers)"
    shown = ", ".join(held[:2]) + (", …" if len(held) > 2 else "")
    return f"{len(held)} of {len(weights)} are trained ({count} of {of} numbers): {shown}"


def _loaded(path: Path, model: PreTrainedModel) -> State:
    outline = model.device.type == "meta"
    device = "cpu" if outline else model.device
    mapped = outline and zipfile.is_zipfile(path)  # names and shapes need no copy
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is refused in a moment
            state = torch.load(path, map_location=device, weights_only=True, mmap=mapped)
        groups, slots = state["param_groups"], state["state"]
        numbers = [i for group in groups for i in group["params"]]
        if not numbers or not all(isinstance(slot, dict) for slot in slots.values()):
            raise ValueError("no groups of weights")
    except (
        *(AttributeError, EOFError, KeyError, OSError, RuntimeError, TypeError, ValueError),
        pickle.UnpicklingError,
    ) as error:
        what = "more than tensors and numbers" if "weights_only" in str(error) else "no such state"
        raise UnclearError(
            f"expected the state of an optimizer as torch saves it, got {what}"
        ) from error
    return state


class _Own(BaseModel):
    """What our warm-up wrote beside the state, as far as it is asked."""

    names: list[str]
    clip_norm: float | None


def _own(folder: Path) -> _Own | None:
    path = folder / "warmup.json"
    if not path.is_file():
        return None
    try:
        return _Own.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        told = " ".join(str(error).split())[:200]
        raise UnclearError(f"{path.name} beside it is damaged ({told})") from error


def _names(
    model: PreTrainedModel, state: State, trainable: Sequence[str], facts: _Own | None
) -> list[list[str]]:
    groups, slots = state["param_groups"], state["state"]
    if facts is None:
        entries = [[_entry(slots.get(i, {})) for i in group["params"]] for group in groups]
        return numbering.names(model, entries, trainable)
    shapes = {n: tuple(p.shape) for n, p in model.named_parameters()}
    names = dict(enumerate(facts.names))
    for i, name in names.items():
        expected = _entry(slots.get(i, {})).shape
        if shapes.get(name, ()) != expected:
            raise UnclearError(
                f"it holds '{name}' of shape {expected}, the model has {shapes.get(name)}: "
                "expected the optimizer of this very model"
            )
    if any(i not in names for group in groups for i in group["params"]):
        raise UnclearError(f"warmup.json beside it names {len(names)} weights, it holds more")
    return [[names[i] for i in group["params"]] for group in groups]


def _entry(slot: Mapping[str, Any]) -> Entry:
    kept = slot.get("exp_avg", slot.get("momentum_buffer"))
    if not isinstance(kept, torch.Tensor):
        return Entry(None, lambda: False)
    return Entry(tuple(kept.shape), lambda: bool((kept == 0).flatten(1).all(1).any()))


def _clip(folder: Path, told: Told, facts: _Own | None) -> tuple[float | None, str]:
    """The clip of the training's gradients, and where it is from."""
    if told.clip_norm is not None:
        return told.clip_norm or None, "student.clip_norm"
    if facts is not None:
        return facts.clip_norm, "the warm-up's"
    try:
        found = training_args.clip_norm(folder)
    except UserError as error:
        raise UnclearError(str(error)) from error
    if found is None:
        return 1.0, (
            f"assumed, a Trainer's default: there is no {training_args.NAME}; "
            "--set student.clip_norm=0 for none"
        )
    return found or None, training_args.NAME
