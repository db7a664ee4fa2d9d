"""Host memory that a GPU copies from by itself, without the CPU and at the speed of the bus."""

from __future__ import annotations

import weakref
from typing import Any

import torch

LARGE = 1 << 20
"""Bytes from which a tensor is pinned where it lies. torch's own pinned memory is rounded up to a
power of two, which at 96 GB would be too much; below, pages are shared and it does not matter."""


def pinned(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """``tensor`` in host memory, pinned if ``device`` is a GPU; not copied where it can stay.

    Memory that cannot be pinned stays as it is: copies from it are slower and as right.
    """
    if device.type != "cuda" or tensor.is_pinned():
        return tensor
    size = tensor.numel() * tensor.element_size()
    if size < LARGE:
        return tensor.contiguous().pin_memory()
    held = tensor.contiguous()
    runtime: Any = torch.cuda.cudart()
    if int(runtime.cudaHostRegister(held.data_ptr(), size, 0)) != 0:
        return held
    # The registration must end before the memory does, which the storage's owner decides.
    weakref.finalize(held, runtime.cudaHostUnregister, held.data_ptr())
    return held
