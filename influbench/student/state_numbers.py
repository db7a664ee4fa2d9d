"""Whether the numbers in a saved optimizer state are such as its step can be computed from.

A state may have the right form and be of no use: a training that diverged leaves NaN, and one that
was saved in float16 has lost its second moments, as squares of gradients are below 6e-8, the least
that float16 holds. The step from there is m / ε, as many times too large as ε is below √v.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from influbench.student.numbering import UnclearError

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""In which moments are read."""
LOST = 1e-15
"""A first moment beyond this has a second one beside it in 32 bits: it was larger than 1e-33."""


def check(state: Mapping[str, Any]) -> None:
    """Looks at every number of a state of AdamW or SGD.

    Raises:
        UnclearError: a weight stands twice or is in no group, or a number is none that the
            optimizer can have come to.
    """
    groups: Sequence[Mapping[str, Any]] = state["param_groups"]
    slots: Mapping[Any, Mapping[str, Any]] = state["state"]
    numbers = [number for group in groups for number in group["params"]]
    if len(set(numbers)) < len(numbers):
        raise UnclearError("a weight stands twice in its groups: expected each once")
    if stray := [number for number in slots if number not in set(numbers)]:
        raise UnclearError(
            f"it keeps moments of a weight {stray[0]!r} that is in no group: expected the numbers "
            "that its groups have"
        )
    for group in groups:
        _check_group(group)
    for number, slot in slots.items():
        _check_slot(number, slot)


def _check_group(group: Mapping[str, Any]) -> None:
    for name in ("lr", "initial_lr", "eps", "weight_decay", "momentum"):
        if name in group and not _number(group[name]) >= 0:
            raise _odd(f"{name} {group[name]!r}", "a number from 0")
    betas = group.get("betas", (0.0, 0.0))
    pair = isinstance(betas, Sequence) and len(betas) == 2
    if not pair or not all(0 <= _number(beta) < 1 for beta in betas):
        raise _odd(f"betas {betas!r}", "two numbers from 0 and below 1")


def _check_slot(number: Any, slot: Mapping[str, Any]) -> None:
    if "step" in slot and not _number(slot["step"]) >= 0:
        raise _odd(f"a step {slot['step']!r} of weight {number}", "a number from 0")
    moments = {n: slot[n] for n in ("exp_avg", "exp_avg_sq", "momentum_buffer") if n in slot}
    for name, moment in moments.items():
        if moment is None and name == "momentum_buffer":
            continue
        if not isinstance(moment, torch.Tensor) or moment.dtype not in DTYPES:
            got = getattr(moment, "dtype", type(moment).__name__)
            raise _odd(f"{name} of weight {number} in {got}", "float32, bfloat16 or float16")
        if not moment.numel():
            continue
        least, most = (float(end) for end in moment.aminmax())
        if not (math.isfinite(least) and math.isfinite(most)):
            raise _odd(f"{name} of weight {number} with NaN or infinity in it", "finite numbers")
        if name == "exp_avg_sq" and least < 0:
            raise _odd(f"{name} of weight {number} with {least:g} in it", "means of squares")
    if {"exp_avg", "exp_avg_sq"} <= moments.keys():
        _check_not_lost(number, moments["exp_avg"], moments["exp_avg_sq"])


def _check_not_lost(number: Any, first: torch.Tensor, second: torch.Tensor) -> None:
    lost = (second == 0) & (first.abs() > LOST)
    if count := int(lost.sum()):
        raise UnclearError(
            f"{count} of the {lost.numel()} second moments of weight {number} are 0 beside a first "
            f"one that is not, as rounding to float16 leaves them (they are {second.dtype} now): "
            "expected a state saved in float32 or bfloat16"
        )


def _number(value: Any) -> float:
    """As a number; NaN where it is none, or several."""
    if isinstance(value, torch.Tensor):
        return float(value) if value.numel() == 1 else math.nan
    real = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if real and math.isfinite(value) else math.nan


def _odd(got: str, expected: str) -> UnclearError:
    return UnclearError(f"it has {' '.join(got.split())[:120]}: expected {expected}")
