"""Which device is meant, and what it is called."""

from __future__ import annotations

from influbench.errors import UserError


def device_of(device: str) -> str:
    """The torch device meant: ``auto`` is CUDA where there is one, else the CPU.

    Raises:
        UserError: no such device here.
    """
    import torch

    cuda = torch.cuda.is_available()
    if device == "auto":
        return "cuda" if cuda else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise UserError(f"expected device auto, cpu, cuda or cuda:N, got '{device}'") from error
    if kind == "cuda" and not cuda:
        raise UserError(f"device '{device}': torch finds no CUDA here; use auto or cpu")
    return device


def device_in_words(device: str) -> str:
    """The hardware that is meant: ``cpu``, or the GPU's own name.

    Raises:
        UserError: no such device here.
    """
    import torch

    target = device_of(device)
    return torch.cuda.get_device_name(target) if target.startswith("cuda") else target
