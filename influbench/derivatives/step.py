"""One optimizer step as a function: gradient in, change of the weights out, moments untouched.

AdamW (Loshchilov and Hutter, arXiv 1711.05101), as ``torch.optim.AdamW`` computes it, from its
state (m, v, t) after the warm-up::

    g' = g · min(1, clip / ‖g‖)          m' = β₁ m + (1-β₁) g'      v' = β₂ v + (1-β₂) g'²
    u(g) = -lr · [ (m' / (1-β₁^t')) / (√(v' / (1-β₂^t')) + ε) + λ θ ],   t' = t + 1

and SGD with momentum. The state is read where it lies: no copy, no ``load_state_dict``, nothing to
drift.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import distributed
from torch.distributed.tensor import DTensor

from influbench.errors import UserError
from influbench.estimator import Student

BLOCK = 1 << 18
"""Elements handled at a time: a dozen element-wise passes then run in cache, not in memory."""


@dataclass(frozen=True)
class Slot:
    """One weight tensor and what the optimizer holds for it."""

    weight: torch.Tensor
    moments: tuple[torch.Tensor, ...]
    """AdamW: (m, v). SGD with momentum: (buffer,). Empty where the optimizer has not stepped."""
    step: float
    lr: float
    weight_decay: float
    betas: tuple[float, float]
    eps: float
    adam: bool


@dataclass(frozen=True)
class Update:
    """The next step of a student's optimizer."""

    slots: tuple[Slot, ...]
    clip_norm: float | None
    sharded: bool = False
    """Each process holds a part of every tensor here (``influbench.derivatives.sharding``)."""

    @property
    def weights(self) -> list[torch.Tensor]:
        """The trainable weights, in the order of all gradients and deltas here."""
        return [slot.weight for slot in self.slots]

    @torch.no_grad()
    def delta(self, gradients: Sequence[torch.Tensor] | None) -> list[torch.Tensor]:
        """u(g): what the step adds to each weight, same shapes; ``None`` is the zero gradient."""
        out = [torch.empty_like(slot.weight) for slot in self.slots]
        self._each_block(gradients, out, add=False)
        return out

    @torch.no_grad()
    def apply(self, gradients: Sequence[torch.Tensor] | None) -> None:
        """Adds u(g) to the weights in place; moments and step count stay as they are."""
        self._each_block(gradients, self.weights, add=True)

    @torch.no_grad()
    def following(self, gradients: Sequence[torch.Tensor] | None) -> Update:
        """The step after this one: moments and count moved on, in memory of their own."""
        factor = 1.0 if gradients is None else self.scale(gradients)
        slots: list[Slot] = []
        for number, slot in enumerate(self.slots):
            g = None if gradients is None else gradients[number] * factor
            slots.append(replace(slot, moments=_next_moments(slot, g), step=slot.step + 1))
        return replace(self, slots=tuple(slots))

    def scale(self, gradients: Sequence[torch.Tensor]) -> float:
        """The factor by which the training's clipping shrinks this gradient."""
        if self.clip_norm is None:
            return 1.0
        norms = torch.stack([torch.linalg.vector_norm(g) for g in gradients])
        square = norms.double().square().sum()
        if self.sharded:
            distributed.all_reduce(square)
        return min(1.0, self.clip_norm / (float(square.sqrt()) + 1e-6))  # 1e-6: clip_grad_norm_'s

    @torch.no_grad()
    def preconditioner(self) -> list[torch.Tensor]:
        """Diagonal D with u(g) ≈ u(0) - D∘g for small g, v frozen.

        D = (1-β₁)·lr/(1-β₁^t') / (√v̂' + ε)
        """
        out: list[torch.Tensor] = []
        for slot in self.slots:
            if not slot.adam:
                out.append(torch.full_like(slot.weight, slot.lr))
                continue
            beta1, beta2 = slot.betas
            step = slot.step + 1
            second = slot.moments[1] * (beta2 / (1 - beta2**step))
            factor = slot.lr * (1 - beta1) / (1 - beta1**step)
            out.append(factor / (second.sqrt_().add_(slot.eps)))
        return out

    def _each_block(
        self,
        gradients: Sequence[torch.Tensor] | None,
        targets: Sequence[torch.Tensor],
        *,
        add: bool,
    ) -> None:
        factor = 1.0 if gradients is None else self.scale(gradients)
        for number, (slot, target) in enumerate(zip(self.slots, targets, strict=True)):
            whole = [target.view(-1), slot.weight.view(-1), *[m.view(-1) for m in slot.moments]]
            parts = [tensor.split(BLOCK) for tensor in whole]
            gradient = None if gradients is None else gradients[number].reshape(-1).split(BLOCK)
            for block, (out, weight, *moments) in enumerate(zip(*parts, strict=True)):
                kept = float(add) - slot.lr * slot.weight_decay  # of the weight, in the sum
                torch.mul(weight, kept, out=out) if kept else out.zero_()
                g = None if gradient is None else gradient[block]
                _add_step(out, slot, g, factor, moments)


def _add_step(
    out: torch.Tensor,
    slot: Slot,
    g: torch.Tensor | None,
    factor: float,
    moments: Sequence[torch.Tensor],
) -> None:
    """Adds u(factor · g), weight decay left out, to one block. In the dtype of the moments."""
    beta1, beta2 = slot.betas
    if not slot.adam:
        if g is not None:
            out.add_(g, alpha=-slot.lr * factor)
        for buffer in moments:
            out.add_(buffer, alpha=-slot.lr * beta1)
        return
    first, second = moments[0] * beta1, moments[1] * beta2
    if g is not None:
        first.add_(g, alpha=(1 - beta1) * factor)
        second.addcmul_(g, g, value=(1 - beta2) * factor**2)
    count = slot.step + 1
    root = (1 - beta2**count) ** 0.5  # √v̂ + ε = (√v' + ε·root) / root: two passes fewer
    out.addcdiv_(
        first, second.sqrt_().add_(slot.eps * root), value=-slot.lr * root / (1 - beta1**count)
    )


def _next_moments(slot: Slot, g: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
    if not slot.adam:
        decayed = slot.weight * slot.weight_decay if slot.weight_decay else None
        change = g if decayed is None else decayed if g is None else g + decayed
        return tuple(m * slot.betas[0] + (0.0 if change is None else change) for m in slot.moments)
    first, second = (m * beta for m, beta in zip(slot.moments, slot.betas, strict=True))
    if g is not None:
        first.add_(g, alpha=1 - slot.betas[0])
        second.addcmul_(g, g, value=1 - slot.betas[1])
    return first, second


@dataclass(frozen=True)
class Excursion:
    """Leaves the weights for as long as a block runs, and puts them back bit for bit."""

    update: Update
    saved: tuple[torch.Tensor, ...]

    @contextmanager
    def stepped(self, gradients: Sequence[torch.Tensor] | None) -> Iterator[None]:
        """The weights after u(g); ``None`` is the zero gradient."""
        with self.undone():
            self.update.apply(gradients)
            yield

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Whatever happens to the weights inside is undone."""
        try:
            yield
        finally:
            with torch.no_grad():
                for weight, before in zip(self.update.weights, self.saved, strict=True):
                    weight.copy_(before)

    def moved(self) -> float:
        """Share of the weights that differ from the saved ones; low where steps round away."""
        pairs = list(zip(self.update.weights, self.saved, strict=True))
        return sum(int(w.ne(old).sum()) for w, old in pairs) / sum(w.numel() for w, _ in pairs)


def excursion(update: Update) -> Excursion:
    """From the weights as they are now, of which it keeps one copy."""
    return Excursion(update, tuple(w.detach().clone() for w in update.weights))


def next_update(student: Student, *, needs_moments: bool = True) -> Update:
    """The step that the student's optimizer would take next.

    Raises:
        UserError: the optimizer is neither AdamW nor SGD, has options outside the formula, or has
            not stepped yet (``needs_moments``).
    """
    optimizer = student.optimizer
    adam = isinstance(optimizer, torch.optim.AdamW)
    if not adam and not isinstance(optimizer, torch.optim.SGD):
        raise UserError(
            f"expected a student trained with AdamW or SGD, got {type(optimizer).__name__}: "
            "its step has no formula here"
        )
    slots: list[Slot] = []
    for group in optimizer.param_groups:
        odd = [k for k in ("amsgrad", "maximize", "nesterov", "dampening") if group.get(k)]
        if odd:
            raise UserError(f"the student's optimizer uses {odd}: not supported, train without it")
        slots += [
            _slot(optimizer, group, weight, adam=adam, needs_moments=needs_moments)
            for weight in group["params"]
        ]
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    sharded = any(isinstance(weight, DTensor) for weight in weights)
    return Update(tuple(slots), student.clip_norm, sharded)


def local(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a tensor that this process holds, in the same memory; mostly all of it."""
    if not isinstance(tensor, DTensor):
        return tensor
    with torch.no_grad():
        return tensor.to_local()


def _slot(
    optimizer: torch.optim.Optimizer,
    group: dict,
    weight: torch.Tensor,
    *,
    adam: bool,
    needs_moments: bool,
) -> Slot:
    state = optimizer.state.get(weight, {})
    if adam and not state and needs_moments:
        raise UserError(
            "this method needs the student's optimizer moments and the student has none: give a "
            "Trainer checkpoint with optimizer.pt, or a warm-up set (--warmup FILE)"
        )
    if adam:
        moments = (state["exp_avg"], state["exp_avg_sq"]) if state else ()
        betas, eps = group["betas"], group["eps"]
    else:
        buffer = state.get("momentum_buffer")
        moments = () if buffer is None else (buffer,)
        betas, eps = (group["momentum"], 0.0), 0.0
    return Slot(
        weight=local(weight),
        moments=tuple(map(local, moments)),
        step=float(state.get("step", 0)),
        lr=float(group["lr"]),
        weight_decay=float(group["weight_decay"]),
        betas=(float(betas[0]), float(betas[1])),
        eps=float(eps),
        adam=adam,
    )
