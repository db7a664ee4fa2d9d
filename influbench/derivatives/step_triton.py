"""AdamW's step in one kernel: θ, m, v and g are read once, θ is written once.

For fp32 weights and moments on a GPU; the gradient and the result may be in a narrower dtype. At
1.1 billion weights that is 22 GB of traffic, 7 ms at 3 TB/s. ``all_tensors`` steps or sums over all
tensors of a student at once, found by tables of addresses (``step_together``); ``step`` is for one
piece, where pieces arrive one after the other.
"""

# Triton comes with PyTorch for GPUs alone; it evaluates annotations, so its kernels have none.
# pyright: reportMissingImports=false, reportUntypedFunctionDecorator=false
# pyright: reportMissingParameterType=false, reportUnknownParameterType=false
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

if TYPE_CHECKING:
    from influbench.derivatives.step_kernels import Piece

WIDTH = 2048
"""Elements of one program; 16 a thread with four warps."""

KINDS: dict[torch.dtype | None, Any] = {
    None: tl.float32,  # no gradient: not read
    torch.float32: tl.float32,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
    torch.float64: tl.float64,
}


@triton.jit
def _change(
    weight,
    first,
    second,
    gradient,
    at,
    inside,
    kept,
    beta1,
    beta2,
    fresh1,
    fresh2,
    eps,
    value,
    LEARNING: tl.constexpr,
    KEEPING: tl.constexpr,
):
    m = tl.load(first + at, mask=inside) * beta1
    v = tl.load(second + at, mask=inside) * beta2
    if LEARNING:
        g = tl.load(gradient + at, mask=inside).to(tl.float32)
        m += g * fresh1
        v += g * g * fresh2
    change = tl.div_rn(m, tl.sqrt_rn(v) + eps) * value
    if KEEPING:  # else the weights are not read: there may be none
        change += tl.load(weight + at, mask=inside) * kept
    return change


@triton.jit
def _adamw(
    out,
    weight,
    first,
    second,
    gradient,
    count,
    kept,
    beta1,
    beta2,
    fresh1,
    fresh2,
    eps,
    value,
    LEARNING: tl.constexpr,
    KEEPING: tl.constexpr,
    WIDTH: tl.constexpr,
):
    at = tl.program_id(0).to(tl.int64) * WIDTH + tl.arange(0, WIDTH)
    inside = at < count
    change = _change(
        weight, first, second, gradient, at, inside,
        kept, beta1, beta2, fresh1, fresh2, eps, value, LEARNING, KEEPING,
    )  # fmt: skip
    tl.store(out + at, change.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _place(table, KIND: tl.constexpr, ALIGNED: tl.constexpr):
    found = tl.load(table).to(tl.pointer_type(KIND))
    if ALIGNED:  # so that 16 bytes are read at a time
        found = tl.multiple_of(found, 16)
    return found


@triton.jit
def _adamw_all(
    partial,
    places,
    constants,
    counts,
    owners,
    starts,
    factor,
    OTHER: tl.constexpr,
    GRADIENT: tl.constexpr,
    LEARNING: tl.constexpr,
    KEEPING: tl.constexpr,
    ALIGNED: tl.constexpr,
    WHOLE: tl.constexpr,
    DOT: tl.constexpr,
    WIDTH: tl.constexpr,
):
    program = tl.program_id(0)
    owner = tl.load(owners + program)
    at = tl.multiple_of(tl.load(starts + program), 16) + tl.arange(0, WIDTH)
    inside = tl.full((WIDTH,), True, tl.int1) if WHOLE else at < tl.load(counts + owner)
    own = places + owner * 5
    other = _place(own, OTHER, ALIGNED)
    weight = _place(own + 1, tl.float32, ALIGNED)
    first = _place(own + 2, tl.float32, ALIGNED)
    second = _place(own + 3, tl.float32, ALIGNED)
    gradient = _place(own + 4, GRADIENT, ALIGNED)
    # In fp64, as Python has them, and rounded where Python's would be.
    own = constants + owner * 7
    shrunk = tl.load(factor)
    change = _change(
        weight, first, second, gradient, at, inside,
        tl.load(own).to(tl.float32),
        tl.load(own + 1).to(tl.float32),
        tl.load(own + 2).to(tl.float32),
        (tl.load(own + 3) * shrunk).to(tl.float32),
        (tl.load(own + 4) * (shrunk * shrunk)).to(tl.float32),
        tl.load(own + 5).to(tl.float32),
        tl.load(own + 6).to(tl.float32),
        LEARNING, KEEPING,
    )  # fmt: skip
    if DOT:
        along = tl.load(other + at, mask=inside).to(tl.float32)
        tl.store(partial + program, tl.sum(tl.where(inside, along * change, 0.0), axis=0))
    else:
        tl.store(other + at, change.to(OTHER), mask=inside)


def step(piece: Piece, factor: float) -> None:
    """AdamW's step of one piece."""
    slot, g = piece.slot, piece.gradient
    (beta1, beta2), (eps, value) = slot.betas, slot.constants
    kernel: Any = _adamw
    kernel[(triton.cdiv(piece.elements, WIDTH),)](
        piece.out,
        piece.master,
        *piece.moments,
        piece.out if g is None else g,
        piece.elements,
        piece.kept,
        beta1,
        beta2,
        (1 - beta1) * factor,
        (1 - beta2) * factor**2,
        eps,
        value,
        LEARNING=g is not None,
        KEEPING=piece.kept != 0,
        WIDTH=WIDTH,
    )


def all_tensors(
    programs: int,
    partial: torch.Tensor | None,
    tables: tuple[torch.Tensor, ...],
    factor: torch.Tensor,
    *,
    other: torch.dtype,
    gradient: torch.dtype | None,
    keeping: bool,
    aligned: bool,
    whole: bool,
    width: int,
    warps: int,
) -> None:
    """AdamW's step of many tensors of one kind, or its product with a direction.

    Args:
        programs: how many there are, each for ``width`` elements of one tensor.
        partial: the dot product's part of each program, fp32; ``None``: the step is written.
        tables: by tensor its places (int64 [tensor, 5]: result or direction, weight, moments,
            gradient), constants (fp64 [tensor, 7]: share kept, β₁, β₂, 1-β₁, 1-β₂, ε', α) and
            length (int64 [tensor]); by program its tensor (int32) and first element (int64).
        factor: on the gradient, fp64 scalar on the device.
        other: dtype of result or direction.
        gradient: dtype of the gradients; ``None``: they are zero.
        keeping: the weights are read.
        aligned: all places are multiples of 16 bytes.
        whole: no program reaches beyond the end of its tensor.
        width: elements of a program.
        warps: threads of a program, in 32.
    """
    kernel: Any = _adamw_all
    kernel[(programs,)](
        factor if partial is None else partial,
        *tables,
        factor,
        OTHER=KINDS[other],
        GRADIENT=KINDS[gradient],
        LEARNING=gradient is not None,
        KEEPING=keeping,
        ALIGNED=aligned,
        WHOLE=whole,
        DOT=partial is not None,
        WIDTH=width,
        num_warps=warps,
    )
