"""How a student is held for scoring; no torch is needed to say so."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from influbench.models.settings import Learn
from influbench.student.history import Told

Compute = Literal["float32", "bfloat16", "tf32"]
Placement = Literal["auto", "device", "offloaded", "sharded"]


@dataclass(frozen=True)
class StudentSettings:
    """How a student is held for scoring."""

    device: str = "auto"
    dtype: str = "float32"
    compute: Compute = "float32"
    attention: Literal["sdpa", "eager"] = "sdpa"
    max_length: int | None = None
    """Cut examples here; None = refuse those longer than the context."""
    learn: Learn = "all"
    """Which assistant turns of a conversation count."""
    token_budget: int | None = None
    """Padded tokens in one batch; None = what the memory allows (``budgets``)."""
    placement: Placement = "auto"
    fused: bool = False
    moments: bool = True
    """Whether the optimizer in its folder is looked at, if there is one."""
    told: Told = field(default_factory=Told)
    """How it steps, where that is not as its folder says."""
