"""The learning rate of a student's next step, and where in its folder it is found.

A checkpoint holds the rate that its next step would have had. That of a finished training is the
end of a schedule, mostly 0, with which no step moves anything: then it is the schedule's peak.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from influbench.student.history import Told

STATE = "trainer_state.json"
"""A Trainer's own, with its log."""
OVER = 1e-6
"""A learning rate that is this share of the schedule's peak is the end of the schedule."""


def put(groups: Sequence[dict[str, Any]], folder: Path, file: str, told: Told) -> tuple[float, str]:
    """Writes the step's learning rates into the groups; the largest, and where it is from.

    Args:
        groups: the optimizer's.
        folder: the checkpoint.
        file: that the groups are from.
        told: what is wanted.
    """
    last = [float(group["lr"]) for group in groups]
    peaks = [float(group.get("initial_lr", 0.0)) for group in groups]
    source = "initial_lr"
    if not any(peaks) and max(last) == 0:
        peaks, source = _peaks(folder, len(groups))
    if told.learning_rate is not None:
        rates, source = [told.learning_rate] * len(groups), "student.learning_rate"
    elif max(last) > OVER * max(peaks):
        rates, source = last, file
    else:
        rates = peaks
        source = f"its schedule's peak, by {source}; its last one is {max(last):g}"
    for group, rate in zip(groups, rates, strict=True):
        group["lr"] = rate
    return max(rates), source


def _peaks(folder: Path, groups: int) -> tuple[list[float], str]:
    """The schedule's peak where the optimizer does not have it; 0 where nothing says it."""
    path = folder / "scheduler.pt"
    if path.is_file():
        try:
            rates = torch.load(path, map_location="cpu", weights_only=True)["base_lrs"]
            if len(rates) == groups and max(rates) > 0:
                return [float(rate) for rate in rates], path.name
        except (KeyError, OSError, RuntimeError, TypeError, ValueError, pickle.UnpicklingError):
            pass  # another scheduler's: the log is left
    log = _trainer_state(folder).get("log_history") or []
    peak = max((float(row.get("learning_rate") or 0.0) for row in log), default=0.0)
    return [peak] * groups, STATE


def steps(folder: Path) -> int:
    """How many steps the training took, 0 where nothing says it."""
    return int(_trainer_state(folder).get("global_step") or 0)


def _trainer_state(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
