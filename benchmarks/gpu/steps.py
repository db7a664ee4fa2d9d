"""The optimizer's step and what ``first_order`` makes of it, in every way there has been."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.gpu.clock import started, steady
from benchmarks.gpu.rows import Recorder
from influbench.data.records import Example
from influbench.derivatives import gradients, graphed, step_kernels
from influbench.derivatives import step as updates
from influbench.derivatives.step_together import Together
from influbench.student import LanguageStudent

Tensors = Sequence[torch.Tensor]

SHAPES = (1024, 4), (2048, 4), (4096, 8)
"""Elements and warps of a program that are tried; the second is the one in use."""


def update(
    student: LanguageStudent, example: Example, record: Recorder, *, others: bool = True
) -> None:
    """The step and its product with a direction: as they are, and (``others``) as they were."""
    device = student.model.device
    step = updates.next_update(student)
    found = gradients.gradient(student, step.weights, example)
    out = [torch.empty_like(w) for w in step.weights]
    elements = sum(w.numel() for w in step.weights)
    at_once = step.at_once
    how = "in blocks" if at_once is None else "one kernel for all tensors"

    def rate(seconds: float, width: int = 20, what: str = "θ, m, v, g read and θ written") -> str:
        return f"{width * elements / seconds / 1e9:.0f} GB/s of {what}"

    seconds = steady(lambda: step.apply(found, out), device)
    python = started(lambda: step.apply(found, out), device)
    record(f"update, {how} (kept)", seconds, "s", f"{rate(seconds)}, {python:.1e} s in Python")
    record("update, norm of the gradient alone", steady(lambda: step.scale(found), device), "s")
    seconds = steady(lambda: step.dot(found, found), device)
    record("dot with the step (kept)", seconds, "s", rate(seconds, 16, "m, v, g, direction read"))
    if not others:
        return
    if at_once is not None:
        _one_by_one(step, at_once, found, out, record)
        _shapes(step, found, out, record, rate)

    def passes() -> None:
        _each(step, found, out, step_kernels.by_passes, step_kernels.DEVICE_BLOCK)

    seconds = steady(passes, device)
    record("update, in passes", seconds, "s", rate(seconds))
    if device.type == "cuda":
        with record.guard("update, torch's fused AdamW on copies"):
            seconds = steady(lambda: _fused(step, found, out), device)
            record("update, torch's fused AdamW on copies", seconds, "s", rate(seconds))


def first_order(student: LanguageStudent, example: Example, record: Recorder) -> None:
    """Where the seconds of one candidate go: each part until the device is done with it."""
    device = student.model.device
    step = updates.next_update(student)
    single = graphed.one_by_one(student, step.weights)
    for _ in range(graphed.FREQUENT - 1):
        single(example)
    found = single(example)
    direction = [torch.randn_like(w) for w in step.weights]
    row, pad = student.encode(example), student.tokenizer.pad_token_id
    assert isinstance(pad, int)
    size = graphed.size_of(row)
    parts: dict[str, Callable[[], object]] = {
        "tokens to the device": lambda: graphed.padded(student.encode(example), size, device, pad),
        "gradient, with those": lambda: single(example),
        "norm for the clipping": lambda: step.scale(found),
        "product with the clipping": lambda: step.dot(direction, found),
    }
    at_once = step.at_once
    if at_once is not None:
        parts["product alone"] = lambda: at_once.dot(direction, found, 1.0)
    seconds: dict[str, float] = {}
    for name, part in parts.items():
        seconds[name] = steady(part, device)
        note = f"{started(part, device):.1e} s until Python goes on"
        record(f"first_order, {name}", seconds[name], "s", note)
    whole = steady(lambda: step.dot(direction, single(example)), device)
    counted = seconds["gradient, with those"] + seconds["product with the clipping"]
    record("first_order, all", whole, "s", f"parts {counted:.4f} s")


def _one_by_one(
    step: updates.Update,
    at_once: Together,
    found: Tensors,
    out: Tensors,
    record: Recorder,
) -> None:
    """A launch a tensor, as it was: seconds, and what differs."""
    kernels: Any = step_kernels.triton_kernels()
    device = step.weights[0].device
    each = functools.partial(_each, step, found, kernel=kernels.step, size=None)
    with record.guard("update, one kernel a tensor"):
        seconds = steady(lambda: each(out), device)
        theirs = [o.clone() for o in out]
        at_once.step(found, out, 1.0, add=True)
        same = sum(int(a.ne(b).sum()) for a, b in zip(out, theirs, strict=True))
        del theirs
        record("update, one kernel a tensor", seconds, "s", f"{same} elements differ")
    with record.guard("dot, a kernel and a dot a tensor"):

        @torch.no_grad()
        def dots() -> float:
            parts: list[torch.Tensor] = []
            for slot, g in zip(step.slots, found, strict=True):
                target = torch.empty_like(slot.master)
                for piece in step_kernels.pieces([slot], [g], [target], add=False, size=None):
                    kernels.step(piece, 1.0)
                parts.append(torch.dot(g.reshape(-1).float(), target.view(-1)))
            return float(torch.stack(parts).double().sum())

        right, ours = dots(), float(at_once.dot(found, found, 1.0))
        note = f"relative difference {abs(ours - right) / abs(right):.1e}"
        record("dot, a kernel and a dot a tensor", steady(dots, device), "s", note)


def _shapes(
    step: updates.Update,
    found: Tensors,
    out: Tensors,
    record: Recorder,
    rate: Callable[..., str],
) -> None:
    """The kernel alone, in programs of several sizes; without the norm for the clipping."""
    kernels: Any = step_kernels.triton_kernels()
    device = step.weights[0].device
    factor = torch.ones((), dtype=torch.float64, device=device)
    for width, warps in SHAPES:
        name = f"{width} elements, {warps} warps"
        with record.guard(name):
            tried = Together(step.slots, kernels, width, warps)
            run = functools.partial(tried.step, found, out, factor, add=True)
            seconds = steady(run, device)
            record(f"update alone, {name}", seconds, "s", rate(seconds))
            seconds = steady(lambda tried=tried: tried.dot(found, found, factor), device)
            note = rate(seconds, 16, "m, v, g, direction read")
            record(f"dot alone, {name}", seconds, "s", note)


@torch.no_grad()
def _each(
    step: updates.Update,
    found: Tensors,
    out: Tensors,
    kernel: step_kernels.Kernel,
    size: int | None,
) -> None:
    for piece in step_kernels.pieces(step.slots, found, out, add=True, size=size):
        kernel(piece, 1.0)


@torch.no_grad()
def _fused(step: updates.Update, found: Tensors, out: Tensors) -> None:
    """θ, m and v copied, then stepped in place, in groups of bounded memory."""
    slots = list(zip(step.slots, found, out, strict=True))
    for start in range(0, len(slots), 16):
        group = slots[start : start + 16]
        firsts, seconds = ([s.moments[k].clone() for s, _, _ in group] for k in (0, 1))
        targets = [o for _, _, o in group]
        torch._foreach_copy_(targets, [s.weight for s, _, _ in group])  # pyright: ignore[reportPrivateImportUsage, reportPrivateUsage]
        slot = group[0][0]
        torch._fused_adamw_(  # pyright: ignore[reportPrivateImportUsage, reportPrivateUsage]
            targets, [g for _, g, _ in group], firsts, seconds, [],
            [torch.tensor(slot.step + 1, device=slot.weight.device) for _ in group],
            amsgrad=False, lr=slot.lr, beta1=slot.betas[0], beta2=slot.betas[1],
            weight_decay=slot.weight_decay, eps=slot.eps, maximize=False,
        )  # fmt: skip
