"""The step that a student's optimizer would take next, and the way there and back.

The formula is ``derivatives.update``'s; here it is read off an optimizer, taken, and undone.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from influbench.derivatives.step_kernels import Slot
from influbench.derivatives.update import Update
from influbench.errors import UserError
from influbench.estimator import HELD, Student
from influbench.student import LanguageStudent
from influbench.student.casting import linear_layers
from influbench.student.placement.sharded import local

__all__ = ["Cast", "Excursion", "Slot", "Update", "excursion", "next_update"]


@dataclass(frozen=True)
class Cast:
    """A linear layer that multiplies with a narrow copy of its weight, made once a step.

    Autocast makes the same copy, bit for bit, in every batch.
    """

    module: torch.nn.Linear
    copy: torch.nn.Parameter

    @contextmanager
    def used(self) -> Generator[None]:
        """The layer with the copy in its weight's place."""
        own = self.module.weight
        self.module.weight = self.copy
        try:
            yield
        finally:
            self.module.weight = own


@dataclass(frozen=True)
class Excursion:
    """Leaves the weights for as long as a block runs, and puts them back bit for bit."""

    update: Update
    saved: tuple[torch.Tensor | None, ...]
    """What to put back, one a weight; None where that is not changed, or read from its master."""
    casts: Mapping[int, Cast] = field(default_factory=dict)
    """By number of the weight: steps go into the copy, the weight itself stays as it is."""

    @contextmanager
    def stepped(self, gradients: Sequence[torch.Tensor] | None) -> Generator[None]:
        """The weights after u(g); ``None`` is the zero gradient."""
        targets = [
            self.casts[number].copy.detach() if number in self.casts else weight
            for number, weight in enumerate(self.update.weights)
        ]
        with self.undone(), ExitStack() as stack:
            self.update.apply(gradients, targets)
            for cast in self.casts.values():
                stack.enter_context(cast.used())
            yield

    @contextmanager
    def still(self) -> Generator[None]:
        """The weights as they are, rounded as those after a step."""
        with torch.no_grad():
            for number, cast in self.casts.items():
                cast.copy.copy_(self.update.weights[number])
        with ExitStack() as stack:
            for cast in self.casts.values():
                stack.enter_context(cast.used())
            yield

    @contextmanager
    def undone(self) -> Generator[None]:
        """Whatever happens to the weights inside is undone."""
        try:
            yield
        finally:
            with torch.no_grad():
                for number, (slot, before) in enumerate(
                    zip(self.update.slots, self.saved, strict=True)
                ):
                    if number not in self.casts:
                        source = slot.master if before is None else before
                        slot.weight.copy_(source, non_blocking=True)

    @property
    def rounds(self) -> bool:
        """Whether some weights are so narrow that most of a small step rounds away in them."""
        return any(w.dtype not in (torch.float32, torch.float64) for w in self.update.weights)

    def moved(self, seen: torch.dtype | None = None) -> float:
        """Share of the weights that differ from the saved ones; low where steps round away.

        Args:
            seen: the dtype that both are rounded to; None = as they are.
        """
        pairs = [
            (w.to(seen or w.dtype), (slot.master.to(w.device) if old is None else old))
            for w, slot, old in zip(self.update.weights, self.update.slots, self.saved, strict=True)
        ]
        count = sum(int(w.ne(old.to(seen or old.dtype)).sum()) for w, old in pairs)
        return count / sum(w.numel() for w, _ in pairs)

    def told(self, student: Student) -> dict[str, float]:
        """``weights_moved``: the share that differ as the student multiplies with them.

        Nothing where it does so in fp32, in which every step moves nearly all.
        """
        narrow = isinstance(student, LanguageStudent) and student.compute == "bfloat16"
        if not narrow and not self.rounds:
            return {}
        return {"weights_moved": self.moved(torch.bfloat16 if narrow else None)}


def excursion(update: Update, student: Student | None = None) -> Excursion:
    """From the weights as they are now, of which it keeps one copy.

    No copy of weights that stay as they are, nor on a device without room for one if the weights'
    masters lie in host memory.

    Args:
        update: the step.
        student: whose passes without gradients run while it is away; the rounding of its linear
            layers' weights is then done once a step, and not in every batch.
    """
    casts = _casts(update, student)
    changed = [slot for n, slot in enumerate(update.slots) if n not in casts]
    kept = not any(slot.held is not None for slot in changed) or _room(changed)
    saved = tuple(
        slot.weight.detach().clone() if kept and number not in casts else None
        for number, slot in enumerate(update.slots)
    )
    return Excursion(update, saved, casts)


def _casts(update: Update, student: Student | None) -> dict[int, Cast]:
    if not isinstance(student, LanguageStudent) or student.compute != "bfloat16":
        return {}
    layers = linear_layers(student.model)
    found: dict[int, Cast] = {}
    for number, weight in enumerate(update.weights):
        if id(weight) in layers and not update.sharded:
            copy = torch.nn.Parameter(
                torch.empty_like(weight, dtype=torch.bfloat16), requires_grad=False
            )
            found[number] = Cast(layers[id(weight)], copy)
    return found


def _room(slots: Sequence[Slot]) -> bool:
    """Whether the device holds the weights twice more: a copy, and a gradient."""
    device = slots[0].weight.device
    if device.type != "cuda":
        return True
    needed = 2 * sum(slot.weight.numel() * slot.weight.element_size() for slot in slots)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused > 1.1 * needed


def next_update(student: Student, *, needs_moments: bool = True, clip: bool = True) -> Update:
    """The step that the student's optimizer would take next.

    Args:
        student: whose optimizer it is.
        needs_moments: or only the weights are of interest.
        clip: the gradient as the training does; without it not at all.

    Raises:
        UserError: the optimizer is neither AdamW nor SGD, has options outside the formula, or
            (``needs_moments``) has not stepped yet or steps with a learning rate of 0.
    """
    optimizer = student.optimizer
    if needs_moments:
        _check_steps(student)
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
        slots += [_slot(optimizer, group, weight, adam=adam) for weight in group["params"]]
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    sharded = any(isinstance(weight, DTensor) for weight in weights)
    return Update(tuple(slots), student.clip_norm if clip else None, sharded)


def _check_steps(student: Student) -> None:
    """Refuses an optimizer whose next step is not known, or moves nothing."""
    optimizer = student.optimizer
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    adam = isinstance(optimizer, torch.optim.AdamW)
    if adam and not all("exp_avg" in optimizer.state.get(w, {}) for w in weights):
        why = getattr(getattr(student, "history", None), "why_not", "")
        raise UserError(
            f"this method needs the student's optimizer moments, and "
            f"{why or 'the student has none'}; give a Trainer checkpoint with optimizer.pt or a "
            "warm-up set (--warmup FILE), or take a method that needs no moments, such as "
            "gradient_dot"
        )
    if not any(float(group["lr"]) for group in optimizer.param_groups):
        raise UserError(
            "the student's optimizer has a learning rate of 0, so that its step moves nothing and "
            "every score would be 0: say that of the step, --set student.learning_rate=1e-5"
        )


def _slot(
    optimizer: torch.optim.Optimizer,
    group: Mapping[str, Any],
    weight: torch.Tensor,
    *,
    adam: bool,
) -> Slot:
    state = optimizer.state.get(weight, {})
    if adam:
        moments = (state["exp_avg"], state["exp_avg_sq"]) if "exp_avg" in state else ()
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
        held=state.get(HELD),
    )
