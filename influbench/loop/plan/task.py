"""The work of one stage of a run, before it is priced."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from influbench.training.settings import DPOSettings, SFTSettings

Who = Literal["teacher", "student", "judge"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One stage of a run and its work."""

    stage: str
    label: str
    who: Who
    model: str = ""
    """Of another student than the one that candidates are scored for: its name."""
    compute: str
    items: float
    passes: float = 0
    """Forward passes; a backward counts two."""
    read: float = 0
    """Token positions forward, without gradients."""
    readings: float = 0
    """Times that some of them are read on their own: a pass each, or more where they are many."""
    learn: float = 0
    """Token positions forward, with gradients, counted as three passes each."""
    gradients: float = 0
    """Times that some of them get a gradient on their own."""
    decoded: float = 0
    """Tokens written."""
    steps: float = 0
    """Decoding steps: one is a pass for every row of a batch."""
    rows: int = 0
    """Rows decoded at a time."""
    updates: float = 0
    """Times that all weights are changed."""
    moves: float = 0
    """Times that an estimator changes all weights and puts them back."""
    calls: float = 0
    """Requests to the judge."""
    prompt: float = 0
    """Tokens sent in them; a local judge reads them."""
    replies: float = 0
    """Tokens that come back."""
    trains: Literal["", "full", "lora"] = ""
    again: bool = False
    """Layers are computed again going back (gradient checkpointing)."""
    shared: bool = False
    """Several devices can share its items today."""
    saved: float = 0
    """Copies of the weights that stay in the store, in units of fp32 weights."""
    note: str = ""


def updates(rows: int, cfg: SFTSettings | DPOSettings) -> float:
    """Times that a training changes all weights; an adapter has a fiftieth of them."""
    return math.ceil(rows / cfg.batch_size) * cfg.epochs * (0.02 if cfg.method == "lora" else 1)
