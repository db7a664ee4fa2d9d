"""Which optimizer a saved state is of, and whether its next step is one that is computed here.

Many optimizers keep what AdamW or SGD keeps and step otherwise, and a state does not say its class.
What is left to tell them apart is names: of what is kept of a weight, and of a group's options. So
a name that is not AdamW's or SGD's own makes a state another optimizer's; a name that is missing
only where every AdamW has it, since versions of torch differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from influbench.student.numbering import UnclearError

Group = Mapping[str, Any]
Slot = Mapping[str, Any]

RUNNING = {"params", "maximize", "foreach", "differentiable", "fused", "capturable"}
"""Options of how torch runs a step, and which weights have it."""
ADDED = {
    *("initial_lr", "max_lr", "min_lr", "max_momentum", "base_momentum", "swa_lr"),
    *("param_names", "lr_scale", "lr_mult"),
}
"""What schedules of the learning rate keep in a group, and names: no optimizer reads them."""
FUSED = "bias_correction"
"""Option of AdamW as apex and DeepSpeed have it, where theirs has no ``amsgrad``; apex has the
number of steps beside it."""


@dataclass(frozen=True)
class Kind:
    """An optimizer whose step is computed here."""

    name: Literal["AdamW", "SGD"]
    slots: frozenset[str]
    """What it may keep of a weight."""
    needs: frozenset[str]
    """Options that each of its groups has, whatever version of torch it is from."""
    options: frozenset[str]
    """Further ones that it may have."""
    off: frozenset[str]
    """Those that change the step, and must be off."""


ADAMW = Kind(
    name="AdamW",
    slots=frozenset({"exp_avg", "exp_avg_sq", "step", "max_exp_avg_sq"}),
    needs=frozenset({"lr", "betas", "eps", "weight_decay"}),
    options=frozenset({"amsgrad", "decoupled_weight_decay", FUSED, "step"}),
    off=frozenset({"amsgrad", "maximize"}),
)
SGD = Kind(
    name="SGD",
    slots=frozenset({"momentum_buffer"}),
    needs=frozenset({"lr", "momentum", "dampening", "weight_decay", "nesterov"}),
    options=frozenset(),
    off=frozenset({"dampening", "nesterov", "maximize"}),
)


def kind_of(groups: Sequence[Group], slots: Sequence[Slot]) -> Literal["AdamW", "SGD"]:
    """The optimizer of a state.

    Args:
        groups: its groups, as saved.
        slots: what it keeps of each weight.

    Raises:
        UnclearError: another optimizer, or one with an option that makes another step.
    """
    held = [slot for slot in slots if slot]
    kind = SGD if "momentum" in groups[0] and "betas" not in groups[0] else ADAMW
    if why := _other(kind, groups, held):
        raise UnclearError(f"it is of another optimizer than AdamW and SGD ({why})")
    for group in groups:
        if on := sorted(name for name in kind.off if group.get(name)):
            raise UnclearError(f"it is {kind.name}'s with {', '.join(on)}: expected it without")
        if group.get("decoupled_weight_decay") is False and group["weight_decay"]:
            raise UnclearError("it is Adam's with weight decay in the gradient: expected AdamW")
    return kind.name


def _other(kind: Kind, groups: Sequence[Group], slots: Sequence[Slot]) -> str:
    """What tells a state from that of ``kind``; nothing where it is of that kind."""
    kept = {str(name) for slot in slots for name in slot}
    if kept - kind.slots or not (slots or kind is SGD):
        return f"it keeps {', '.join(sorted(kept)) or 'nothing'}"
    for group in groups:
        names = {str(name) for name, value in group.items() if not isinstance(value, str)}
        if lacking := sorted(kind.needs - names):
            return f"a group of it has no {lacking[0]}"
        if added := sorted(names - kind.needs - kind.options - RUNNING - ADDED):
            return f"{kind.name} has no option {', '.join(added)}"
        if kind is ADAMW and "amsgrad" not in names and FUSED not in names:
            return "it has AdamW's moments without its option amsgrad, as RAdam has"
        if not group.get(FUSED, True):
            return f"{FUSED} is off"
    if kind is ADAMW and not all(map(_whole, slots)):
        return "it keeps no two moments of each weight's shape and a number of steps"
    return ""


def _whole(slot: Slot) -> bool:
    first, second = slot.get("exp_avg"), slot.get("exp_avg_sq")
    if not isinstance(first, torch.Tensor) or not isinstance(second, torch.Tensor):
        return False
    return first.shape == second.shape and "step" in slot


def count_by_weight(state: Mapping[str, Any]) -> None:
    """Writes into each weight's slot the number of steps that apex has in its group."""
    for group in state["param_groups"]:
        if FUSED in group and "step" in group:
            for number in group["params"]:
                if slot := state["state"].get(number):
                    slot.setdefault("step", group["step"])
