"""Where a student's weights and moments lie: wherever they fit. None of it changes a score."""

from __future__ import annotations

import torch

from influbench.student.language_student import LanguageStudent
from influbench.student.placement.offloaded import offload
from influbench.student.settings import Placement

ACTIVATIONS = 4 << 30
"""Bytes that passes are to have beside the student."""


def place(student: LanguageStudent, device: torch.device, kind: Placement) -> LanguageStudent:
    """The same student where it was asked for; the one given is used up.

    Args:
        student: in host memory, or on the device already.
        device: where its passes will run.
        kind: ``device``: all of it there; ``offloaded``: what only the optimizer reads in host
            memory; ``auto``: on the device if it fits.
    """
    assert kind != "sharded", "several processes load a student first, and then split it"
    if kind == "auto":
        kind = "device" if _fits(student, device) else "offloaded"
    if kind == "offloaded":
        return offload(student, device)
    torch.nn.Module.to(student.model, device=device)
    for state in student.optimizer.state.values():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.ndim:  # AdamW counts steps on the CPU
                state[name] = value.to(device)
    return student


def needed(student: LanguageStudent) -> int:
    """Bytes on the device for an exact influence: weights, moments, a copy and a gradient.

    Weights that are not trained, such as those under an adapter, are there once.
    """
    trained = {id(w) for group in student.optimizer.param_groups for w in group["params"]}
    frozen = [w for w in student.model.parameters() if id(w) not in trained]
    total = sum(w.numel() * w.element_size() for w in frozen)
    for group in student.optimizer.param_groups:
        for weight in group["params"]:
            moments = [
                value
                for value in student.optimizer.state.get(weight, {}).values()
                if isinstance(value, torch.Tensor) and value.ndim
            ]
            total += (3 + len(moments)) * weight.numel() * weight.element_size()
    return total


def _fits(student: LanguageStudent, device: torch.device) -> bool:
    if device.type != "cuda" or student.model.device.type == "cuda":
        return True
    return torch.cuda.mem_get_info(device)[0] > needed(student) + ACTIVATIONS
