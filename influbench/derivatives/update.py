"""One optimizer step as a function: gradient in, change of the weights out, moments untouched.

AdamW (Loshchilov and Hutter, arXiv 1711.05101), as ``torch.optim.AdamW`` computes it, from its
state (m, v, t) after the warm-up::

    g' = g · min(1, clip / ‖g‖)          m' = β₁ m + (1-β₁) g'      v' = β₂ v + (1-β₂) g'²
    u(g) = -lr · [ (m' / (1-β₁^t')) / (√(v' / (1-β₂^t')) + ε) + λ θ ],   t' = t + 1

and SGD with momentum. The state is read where it lies: no copy, no ``load_state_dict``, nothing to
drift.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import distributed

from influbench.derivatives import streamed
from influbench.derivatives.gradients import flat_dot
from influbench.derivatives.step_kernels import Slot, kernel_for, pieces
from influbench.derivatives.step_together import Together, together
from influbench.errors import UserError


@dataclass(frozen=True)
class Update:
    """The next step of a student's optimizer."""

    slots: tuple[Slot, ...]
    clip_norm: float | None
    sharded: bool = False
    """Each process holds a part of every tensor here (``influbench.student.placement.sharded``)."""

    @property
    def weights(self) -> list[torch.Tensor]:
        """The trainable weights, in the order of all gradients and deltas here."""
        return [slot.weight for slot in self.slots]

    @functools.cached_property
    def at_once(self) -> Together | None:
        """What takes the step in one launch, where it can."""
        return together(self.slots)

    @torch.no_grad()
    def delta(self, gradients: Sequence[torch.Tensor] | None) -> list[torch.Tensor]:
        """u(g): what the step adds to each weight, same shapes; ``None`` is the zero gradient."""
        out = [torch.empty_like(slot.weight, dtype=slot.master.dtype) for slot in self.slots]
        self._write(self.slots, gradients, out, self._factor(gradients), add=False)
        return out

    @torch.no_grad()
    def apply(
        self,
        gradients: Sequence[torch.Tensor] | None,
        targets: Sequence[torch.Tensor] | None = None,
    ) -> None:
        """Writes θ + u(g) into the weights, or into ``targets``; moments and count stay."""
        where = self.weights if targets is None else targets
        self._write(self.slots, gradients, where, self._factor(gradients), add=True)

    @torch.no_grad()
    def dot(
        self, direction: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor] | None
    ) -> float:
        """⟨direction, u(g)⟩: no more of u(g) than one tensor exists at a time, on a GPU none."""
        factor = self._factor(gradients)
        if self.at_once is not None:
            with _current(self.slots[0].weight.device):
                return float(self.at_once.dot(direction, gradients, factor))
        parts: list[torch.Tensor] = []
        for number, (slot, along) in enumerate(zip(self.slots, direction, strict=True)):
            out = torch.empty_like(slot.weight, dtype=slot.master.dtype)
            own = None if gradients is None else [gradients[number]]
            self._write([slot], own, [out], factor, add=False)
            parts.append(flat_dot(along, out))
        return float(torch.stack(parts).double().sum())

    @torch.no_grad()
    def following(self, gradients: Sequence[torch.Tensor] | None) -> Update:
        """The step after this one: moments and count moved on, in memory of their own.

        Raises:
            UserError: the optimizer steps from copies of the weights, which are not moved on.
        """
        if any(slot.held is not None for slot in self.slots):
            raise UserError(
                "several steps in a row need a student whose optimizer holds the weights in use, "
                "got one with masters elsewhere: use a device that holds the whole student, or "
                "one step"
            )
        factor = 1.0 if gradients is None else self.scale(gradients)
        slots: list[Slot] = []
        for number, slot in enumerate(self.slots):
            place = slot.moments[0].device if slot.moments else slot.weight.device
            g = None if gradients is None else (gradients[number] * factor).to(place)
            slots.append(replace(slot, moments=_next_moments(slot, g), step=slot.step + 1))
        return replace(self, slots=tuple(slots))

    def scale(self, gradients: Sequence[torch.Tensor]) -> float:
        """The factor by which the training's clipping shrinks this gradient."""
        return float(self._scale(gradients))

    def _scale(self, gradients: Sequence[torch.Tensor]) -> float | torch.Tensor:
        """The same, as an fp64 scalar on the gradient's device: nothing waits for that."""
        if self.clip_norm is None:
            return 1.0
        norms = _norms(gradients, self.slots[0].master.dtype)
        square = torch.stack(norms).double().square().sum()
        if self.sharded:
            distributed.all_reduce(square)
        return (self.clip_norm / (square.sqrt() + 1e-6)).clamp(max=1.0)  # 1e-6: clip_grad_norm_'s

    @torch.no_grad()
    def preconditioner(self, after: Sequence[torch.Tensor] | None = None) -> list[torch.Tensor]:
        """Diagonal D with u(g) ≈ u(0) - D∘g for small g, v frozen.

        D = (1-β₁)·lr/(1-β₁^t') / (√v̂' + ε)

        Where v is 0, D is lr/ε and good for gradients below ε only. With ``after``, v' has that
        gradient in it, clipped as the training does: D is then good for gradients of its size.

        Args:
            after: gradients, one a weight; None is the zero gradient.
        """
        factor = 1.0 if after is None else self.scale(after)
        out: list[torch.Tensor] = []
        for number, slot in enumerate(self.slots):
            if not slot.adam:
                out.append(torch.full_like(slot.weight, slot.lr, dtype=slot.master.dtype))
                continue
            beta1, beta2 = slot.betas
            correction = 1 - beta2 ** (slot.step + 1)
            second = slot.moments[1].to(slot.weight.device) * (beta2 / correction)
            if after is not None:
                g = after[number].to(second)
                second.addcmul_(g, g, value=factor**2 * (1 - beta2) / correction)
            rate = slot.lr * (1 - beta1) / (1 - beta1 ** (slot.step + 1))
            out.append(rate / (second.sqrt_().add_(slot.eps)))
        return out

    def _factor(self, gradients: Sequence[torch.Tensor] | None) -> float | torch.Tensor:
        """On the device where a kernel there reads it, else a number."""
        if gradients is None:
            return 1.0
        return self.scale(gradients) if self.at_once is None else self._scale(gradients)

    def _write(
        self,
        slots: Sequence[Slot],
        gradients: Sequence[torch.Tensor] | None,
        targets: Sequence[torch.Tensor],
        factor: float | torch.Tensor,
        *,
        add: bool,
    ) -> None:
        device = slots[0].weight.device
        if self.at_once is not None:
            with _current(device):
                self.at_once.step(gradients, targets, factor, add=add)
            return
        kernel, size = kernel_for(slots[0])
        away = any(slot.held is not None and slot.held.device != device for slot in slots)
        parts = pieces(slots, gradients, targets, add=add, size=streamed.SIZE if away else size)
        shrunk = float(factor)
        with _current(device):
            for piece in streamed.arriving(parts, device) if away else parts:
                kernel(piece, shrunk)


def _current(device: torch.device) -> AbstractContextManager[object]:
    """Kernels start on the GPU that holds the weights, whichever is the process's own."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _norms(gradients: Sequence[torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
    """Euclidean norm of each tensor, in ``dtype``."""
    if gradients[0].device.type != "cuda":
        return [torch.linalg.vector_norm(g, dtype=dtype) for g in gradients]
    kinds = dict.fromkeys(g.dtype for g in gradients)  # a few launches a kind, in one order
    lists = [[g for g in gradients if g.dtype == kind] for kind in kinds]
    norms = torch._foreach_norm  # pyright: ignore[reportPrivateImportUsage, reportPrivateUsage]  # its only name
    return [norm for same in lists for norm in norms(same, 2, dtype=dtype)]


def _next_moments(slot: Slot, g: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
    if not slot.adam:
        decayed = slot.weight * slot.weight_decay if slot.weight_decay else None
        change = g if decayed is None else decayed if g is None else g + decayed
        if not slot.moments:  # its first step: the buffer is the gradient
            return (change,) if slot.betas[0] and change is not None else ()
        return tuple(m * slot.betas[0] + (0.0 if change is None else change) for m in slot.moments)
    first, second = (m * beta for m, beta in zip(slot.moments, slot.betas, strict=True))
    if g is not None:
        first.add_(g, alpha=1 - slot.betas[0])
        second.addcmul_(g, g, value=1 - slot.betas[1])
    return first, second
