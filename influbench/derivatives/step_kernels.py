"""The element-wise work of one optimizer step, on whatever device the weights lie.

On a CPU blocks that stay in cache; on a GPU a kernel that reads θ, m, v and g once and writes θ
once (``step_triton``), over all tensors at a time (``step_together``), or, where Triton is missing,
blocks that fill the device. Where weights and moments lie in another memory than the weights in
use, blocks are copied over while the one before is worked on (``streamed``).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType

import torch

BLOCK = 1 << 18
"""Elements handled at a time on a CPU: a dozen element-wise passes then run in cache."""

DEVICE_BLOCK = 1 << 26
"""The same on a GPU without Triton: few launches, and 256 MB for each of three temporaries."""


@dataclass(frozen=True)
class Slot:
    """One weight tensor and what the optimizer holds for it."""

    weight: torch.Tensor
    """What the network multiplies with, and what gradients are by."""
    moments: tuple[torch.Tensor, ...]
    """AdamW: (m, v). SGD with momentum: (buffer,). Empty where the optimizer has not stepped."""
    step: float
    lr: float
    weight_decay: float
    betas: tuple[float, float]
    eps: float
    adam: bool
    held: torch.Tensor | None = None
    """What the optimizer steps from, where that is not ``weight`` itself: the fp32 weight, perhaps
    in host memory, of which ``weight`` is the copy in use."""

    @property
    def master(self) -> torch.Tensor:
        """What the optimizer steps from."""
        return self.weight if self.held is None else self.held

    @property
    def constants(self) -> tuple[float, float]:
        """(ε', α) of AdamW's change α · m' / (√v' + ε'), weight decay left out."""
        count = self.step + 1
        root = (1 - self.betas[1] ** count) ** 0.5  # √v̂ + ε = (√v' + ε·root) / root: passes fewer
        return self.eps * root, -self.lr * root / (1 - self.betas[0] ** count)


@dataclass(frozen=True)
class Piece:
    """Part of one tensor, flat: where the step goes, and what it is made of."""

    slot: Slot
    out: torch.Tensor
    master: torch.Tensor
    moments: tuple[torch.Tensor, ...]
    gradient: torch.Tensor | None
    kept: float
    """The share of the weight that is in the sum: 1 - lr·λ, or -lr·λ for the change alone."""

    @property
    def elements(self) -> int:
        """How many there are."""
        return self.out.numel()


Kernel = Callable[[Piece, float], None]
"""Carries out the step of a piece; the number is the factor on its gradient."""


def pieces(
    slots: Sequence[Slot],
    gradients: Sequence[torch.Tensor] | None,
    targets: Sequence[torch.Tensor],
    *,
    add: bool,
    size: int | None,
) -> Iterator[Piece]:
    """All elements of all tensors, at most ``size`` at a time; ``None`` = whole tensors.

    Args:
        slots: the optimizer's.
        gradients: one a slot; ``None`` is the zero gradient.
        targets: where the result goes, one a slot, of any dtype.
        add: the weights after the step, else its change alone.
        size: most elements of a piece.
    """
    for number, (slot, target) in enumerate(zip(slots, targets, strict=True)):
        kept = float(add) - slot.lr * slot.weight_decay
        whole = [target.view(-1), slot.master.view(-1), *[m.view(-1) for m in slot.moments]]
        gradient = None if gradients is None else gradients[number].reshape(-1)
        length = size or max(1, target.numel())
        parts = [tensor.split(length) for tensor in whole]
        own = None if gradient is None else gradient.split(length)
        for block, (out, master, *moments) in enumerate(zip(*parts, strict=True)):
            yield Piece(slot, out, master, tuple(moments), own[block] if own else None, kept)


def by_passes(piece: Piece, factor: float) -> None:
    """The step in about ten element-wise passes, in the dtype of the moments, on any device."""
    same = piece.out.dtype == piece.master.dtype
    out = piece.out if same else torch.empty_like(piece.master)
    torch.mul(piece.master, piece.kept, out=out) if piece.kept else out.zero_()
    _add_step(out, piece, factor)
    if not same:
        piece.out.copy_(out)


def kernel_for(slot: Slot) -> tuple[Kernel, int | None]:
    """The kernel for slots like this one, and how many elements it takes at a time.

    Triton's is for AdamW in fp32 alone: with bf16 moments every pass of torch's own AdamW rounds,
    and so must ours.
    """
    if slot.weight.device.type != "cuda":
        return by_passes, BLOCK
    found = triton_kernels()
    if found is None or not slot.adam or slot.master.dtype != torch.float32:
        return by_passes, DEVICE_BLOCK
    return found.step, None


@functools.cache
def triton_kernels() -> ModuleType | None:
    """``step_triton``, or ``None`` where Triton is missing."""
    try:
        from influbench.derivatives import step_triton
    except ImportError:
        return None
    return step_triton


def _add_step(out: torch.Tensor, piece: Piece, factor: float) -> None:
    """Adds u(factor · g), weight decay left out."""
    slot, g, moments = piece.slot, piece.gradient, piece.moments
    beta1, beta2 = slot.betas
    if not slot.adam:
        if g is not None:
            out.add_(g, alpha=-slot.lr * factor)
        for buffer in moments:
            out.add_(buffer, alpha=-slot.lr * beta1)
        return
    first, second = moments[0] * beta1, moments[1] * beta2
    if g is not None:
        g = g.to(first.dtype)
        first.add_(g, alpha=(1 - beta1) * factor)
        second.addcmul_(g, g, value=(1 - beta2) * factor**2)
    eps, value = slot.constants
    out.addcdiv_(first, second.sqrt_().add_(eps), value=value)
