"""A student whose weights in use lie on the device, and what its optimizer holds in host memory.

On the device there is one copy of the weights, in the dtype of the products: fp32, or bf16 for
linear layers, which autocast would round in every batch. The fp32 weights and the moments stay in
host memory; a step reads them piece by piece (``derivatives.streamed``). An 8B student needs 32 GB
on the device for its exact influence in place of 160. On a CPU the device is memory too, so that
every weight is there twice: for tests.
"""

from __future__ import annotations

import torch

from influbench.errors import UserError
from influbench.estimator import HELD
from influbench.student.casting import linear_layers
from influbench.student.language_student import LanguageStudent
from influbench.student.placement.pinned import pinned


def offload(student: LanguageStudent, device: torch.device) -> LanguageStudent:
    """The same student in its new place; the one given is used up.

    Args:
        student: all of it in host memory.
        device: where its passes will run.
    """
    narrow = linear_layers(student.model) if student.compute == "bfloat16" else {}
    optimizer = student.optimizer
    for group in optimizer.param_groups:
        for weight in group["params"]:
            dtype = torch.bfloat16 if id(weight) in narrow else weight.dtype
            state = optimizer.state[weight]
            for name, value in state.items():
                if isinstance(value, torch.Tensor) and value.shape == weight.shape:
                    state[name] = pinned(value, device)
            master = pinned(weight.detach(), device)
            state[HELD] = master
            there = master.to(device, dtype)
            weight.data = there.clone() if there is master else there
    torch.nn.Module.to(student.model, device=device)  # what the optimizer does not hold
    return student


def check_whole(student: LanguageStudent, method: str) -> None:
    """Refuses a student whose weights on the device are narrower copies, for those that read them.

    Raises:
        UserError: it is offloaded, with products in bf16.
    """
    states = student.optimizer.state.values()
    if any(HELD in state for state in states) and student.compute == "bfloat16":
        raise UserError(
            f"estimator '{method}' reads the weights themselves, and of an offloaded student with "
            "products in bfloat16 the device holds rounded copies: set scoring.placement = device, "
            "or scoring.compute = float32"
        )
