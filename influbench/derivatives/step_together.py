"""AdamW's step of all tensors of a student in one launch, on a GPU.

Starting a kernel takes Python longer than 5 million weights take a GPU, so that a launch a tensor
leaves the device idle. Here a program looks up which part of which tensor is its own: addresses and
constants lie in tables on the device, made once for each kind of step. Addresses are read off the
tensors at every call, and their table is made anew where one has changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import torch

from influbench.derivatives.step_kernels import Slot, triton_kernels

ALIGNED = 16
"""Bytes that a thread reads at once, where addresses allow it."""


@dataclass(frozen=True)
class Kind:
    """What decides which launch a tensor belongs to, and its constants."""

    other: torch.dtype
    """Of the result, or of the direction that the step is multiplied with."""
    gradient: torch.dtype | None
    kept: float
    aligned: bool

    @property
    def launch(self) -> tuple[object, ...]:
        """Tensors for which it is the same take part in one launch."""
        return self.other, self.gradient, self.kept != 0, self.aligned


@dataclass(frozen=True)
class Blocks:
    """Programs of one launch: by program its tensor, and where in that it begins."""

    owners: torch.Tensor
    starts: torch.Tensor
    whole: bool
    """None reaches beyond the end of its tensor."""


@dataclass(frozen=True)
class Group:
    """Tensors of one launch, all but their addresses."""

    kind: Kind
    members: tuple[int, ...]
    """Numbers of the slots."""
    constants: torch.Tensor
    counts: torch.Tensor
    blocks: tuple[Blocks, ...]


Seen = tuple[list[int], list[torch.dtype]]
"""Addresses of all tensors, and the dtypes of those that a caller gives."""


@dataclass(frozen=True)
class Plan:
    """What was launched last for one kind of call; it holds as long as the same is seen."""

    seen: Seen
    groups: list[Group]
    places: list[torch.Tensor]
    """By group, shape [tensor, 5]: addresses of result or direction, weight, both moments,
    gradient."""


class Together:
    """Steps all tensors at once; it keeps tables, nothing of the size of a weight."""

    def __init__(
        self, slots: Sequence[Slot], kernels: ModuleType, width: int = 0, warps: int = 4
    ) -> None:
        """Takes the slots of one device; ``width`` 0 is the kernels' own."""
        self._slots = tuple(slots)
        self._kernels = kernels
        self._width = width or kernels.WIDTH
        self._warps = warps
        columns = zip(*[(s.master, *s.moments) for s in self._slots], strict=True)
        self._held = [tensor for column in columns for tensor in column]
        self._groups: dict[tuple[Kind, ...], list[Group]] = {}
        self._plans: dict[tuple[bool, ...], Plan] = {}

    def step(
        self,
        gradients: Sequence[torch.Tensor] | None,
        targets: Sequence[torch.Tensor],
        factor: float | torch.Tensor,
        *,
        add: bool,
    ) -> None:
        """Writes the weights after the step, or (``add`` false) its change, into the targets."""
        # The targets' own memory is written: one that has no flat view is an error.
        flat = [t if t.is_contiguous() else t.view(-1) for t in targets]
        self._launch(flat, gradients, factor, None, add=add)

    def dot(
        self,
        direction: Sequence[torch.Tensor],
        gradients: Sequence[torch.Tensor] | None,
        factor: float | torch.Tensor,
    ) -> torch.Tensor:
        """⟨direction, u(g)⟩, fp64 scalar on the device; u(g) exists nowhere."""
        along = [t.contiguous() for t in direction]
        partials: list[torch.Tensor] = []
        self._launch(along, gradients, factor, partials, add=False)
        if not partials:  # no elements at all
            return torch.zeros((), dtype=torch.float64, device=self._slots[0].weight.device)
        return torch.cat(partials).sum(dtype=torch.float64)

    def _launch(
        self,
        others: Sequence[torch.Tensor],
        gradients: Sequence[torch.Tensor] | None,
        factor: float | torch.Tensor,
        partials: list[torch.Tensor] | None,
        *,
        add: bool,
    ) -> None:
        device = self._slots[0].weight.device
        own = None if gradients is None else [g.contiguous() for g in gradients]
        plan = self._plan(others, own, (add, own is None, partials is None))
        if not isinstance(factor, torch.Tensor):
            factor = torch.full((), factor, dtype=torch.float64, device=device)
        for group, places in zip(plan.groups, plan.places, strict=True):
            for blocks in group.blocks:
                programs = len(blocks.owners)
                partial = None
                if partials is not None:
                    partial = torch.empty(programs, dtype=torch.float32, device=device)
                    partials.append(partial)
                self._kernels.all_tensors(
                    programs,
                    partial,
                    (places, group.constants, group.counts, blocks.owners, blocks.starts),
                    factor,
                    other=group.kind.other,
                    gradient=group.kind.gradient,
                    keeping=group.kind.kept != 0,
                    aligned=group.kind.aligned,
                    whole=blocks.whole,
                    width=self._width,
                    warps=self._warps,
                )

    def _plan(
        self,
        others: Sequence[torch.Tensor],
        gradients: Sequence[torch.Tensor] | None,
        call: tuple[bool, ...],
    ) -> Plan:
        """The last one of such calls, or one anew where anything lies elsewhere."""
        given = [*others, *(gradients or ())]
        seen = [t.data_ptr() for t in (*self._held, *given)], [t.dtype for t in given]
        plan = self._plans.get(call)
        if plan is not None and plan.seen == seen:
            return plan
        self._checked(others, gradients)
        rows: list[tuple[int, ...]] = []
        kinds: list[Kind] = []
        own = gradients or [None] * len(others)
        for slot, other, g in zip(self._slots, others, own, strict=True):
            read = (other, slot.master, *slot.moments)
            rows.append((*[t.data_ptr() for t in read], 0 if g is None else g.data_ptr()))
            aligned = not any(place % ALIGNED for place in rows[-1])
            kept = float(call[0]) - slot.lr * slot.weight_decay
            kinds.append(Kind(other.dtype, None if g is None else g.dtype, kept, aligned))
        key = tuple(kinds)
        if key not in self._groups:
            self._groups[key] = self._grouped(key)
        groups = self._groups[key]
        device = self._slots[0].weight.device
        parts = [[rows[n] for n in group.members] for group in groups]
        places = [torch.tensor(part, dtype=torch.int64).to(device) for part in parts]
        plan = self._plans[call] = Plan(seen, groups, places)
        return plan

    def _checked(
        self, others: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor] | None
    ) -> None:
        """Refuses what an address would hide: another size, another device, gaps."""
        own = [()] * len(others) if gradients is None else [(g,) for g in gradients]
        for slot, other, g in zip(self._slots, others, own, strict=True):
            like = slot.weight
            for tensor in (other, slot.master, *slot.moments, *g):
                if tensor.numel() != like.numel() or tensor.device != like.device:
                    raise ValueError(
                        f"expected {like.numel()} elements on {like.device}, got "
                        f"{tensor.numel()} on {tensor.device}"
                    )
                if not tensor.is_contiguous():
                    raise ValueError("expected a tensor without gaps, got strides of its own")

    def _grouped(self, kinds: Sequence[Kind]) -> list[Group]:
        members: dict[tuple[object, ...], list[int]] = {}
        for number, kind in enumerate(kinds):
            if self._slots[number].weight.numel():
                members.setdefault(kind.launch, []).append(number)
        device = self._slots[0].weight.device
        groups: list[Group] = []
        for numbers in members.values():
            counts = torch.tensor([self._slots[n].weight.numel() for n in numbers])
            constants = [_constants(self._slots[n], kinds[n].kept) for n in numbers]
            groups.append(
                Group(
                    kinds[numbers[0]],
                    tuple(numbers),
                    torch.tensor(constants, dtype=torch.float64).to(device),
                    counts.to(device),
                    _blocks(counts, self._width, device),
                )
            )
        return groups


def together(slots: Sequence[Slot]) -> Together | None:
    """For AdamW in fp32 that lies on one GPU whole, where Triton is; else ``None``.

    With bf16 moments every pass of torch's own AdamW rounds, and so must ours.
    """
    device = slots[0].weight.device
    kernels = triton_kernels() if device.type == "cuda" else None
    if kernels is None:
        return None
    for slot in slots:
        held = (slot.master, *slot.moments)
        fits = all(t.dtype == torch.float32 and t.device == device for t in held)
        if not (fits and slot.adam and len(slot.moments) == 2 and slot.weight.device == device):
            return None
    return Together(slots, kernels)


def _constants(slot: Slot, kept: float) -> tuple[float, ...]:
    beta1, beta2 = slot.betas
    return (kept, beta1, beta2, 1 - beta1, 1 - beta2, *slot.constants)


def _blocks(counts: torch.Tensor, width: int, device: torch.device) -> tuple[Blocks, ...]:
    """Programs for all whole blocks, and for what is left at the ends of tensors."""
    numbers = torch.arange(len(counts), dtype=torch.int32)
    whole = counts // width
    before = torch.repeat_interleave(whole.cumsum(0) - whole, whole)
    starts = (torch.arange(int(whole.sum())) - before) * width
    left = counts % width > 0
    parts = (
        Blocks(torch.repeat_interleave(numbers, whole).to(device), starts.to(device), whole=True),
        Blocks(numbers[left].to(device), (whole * width)[left].to(device), whole=False),
    )
    return tuple(blocks for blocks in parts if len(blocks.owners))
