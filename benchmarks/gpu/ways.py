"""The parts of a candidate's exact influence, each carried out in every way there is."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu.clock import forget, forward_flops, steady, timed
from benchmarks.gpu.rows import Recorder
from influbench.data.records import Example
from influbench.derivatives import gradients, graphed
from influbench.derivatives import step as updates
from influbench.student import LanguageStudent
from influbench.student.losses import Encoded

Way = Callable[[], object]


def gradient(
    student: LanguageStudent, example: Example, record: Recorder, *, several: bool = True
) -> None:
    """One candidate's gradient: eager, from a graph, and of several at once by ``vmap``."""
    device = student.model.device
    weights = updates.next_update(student).weights
    plain = gradients.gradient(student, weights, example)
    seconds = steady(lambda: gradients.gradient(student, weights, example), device)
    record("gradient, eager", seconds, "s")
    if device.type == "cuda":
        for name, narrow in (("", True), (", dtype of the weights", False)):
            with record.guard(f"gradient, graph{name}"):
                graphs = graphed.GraphedGradients(student, weights, frequent=1, narrow=narrow)
                row = student.encode(example)
                found, first = timed(functools.partial(graphs, row), device)
                assert found is not None, "no room for a graph, or it could not be recorded"
                seconds = steady(functools.partial(graphs, row), device)
                note = f"recorded in {first:.2f} s, relative difference from eager "
                note += f"{difference(found[1], plain):.1e}"
                record(f"gradient, graph{name}", seconds, "s", note)
                del graphs, found
            forget(device)
    if not several:
        return
    with record.guard("gradient, vmap of 4"):
        four = per_row(student, weights, student.encode(example), 4)
        record("gradient, vmap of 4", steady(four, device, 3) / 4, "s", "a row")


def per_row(student: LanguageStudent, weights: list[torch.Tensor], row: Encoded, count: int) -> Way:
    """Gradients of ``count`` rows by ``vmap`` of ``grad``."""
    pad = student.tokenizer.pad_token_id
    assert isinstance(pad, int)
    size = graphed.size_of(row)
    laid = graphed.padded(row, size, student.model.device, pad)
    names = {id(p): name for name, p in student.model.named_parameters()}
    values = {names[id(w)]: w.detach() for w in weights}
    ids = laid.ids.expand(count, -1).contiguous()

    class Loss(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = student.model

        def forward(self, one: torch.Tensor) -> torch.Tensor:
            return graphed.loss(student, dataclasses.replace(laid, ids=one[None]))

    module = Loss()
    held = {f"model.{name}": value for name, value in values.items()}

    def loss(held: dict[str, torch.Tensor], one: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(module, held, (one,))

    per = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))

    def run() -> object:
        with sdpa_kernel(SDPBackend.MATH), student.precision():
            return per(held, ids)

    return run


def references(
    student: LanguageStudent, examples: Sequence[Example], peak: float, record: Recorder
) -> LanguageStudent:
    """The reference pass in every way; the student that takes the fastest one."""
    device = student.model.device
    work = forward_flops(student, examples)
    losses: dict[str, np.ndarray] = {}
    best, fastest = student, float("inf")
    for name, held, rounded in _ways(student):
        with record.guard(f"references, {name}"):
            trip = updates.excursion(updates.next_update(held), held if rounded else None)
            batches = held.batches(examples)

            def run(held: Any = held, batches: Any = batches) -> np.ndarray:
                return gradients.losses_of(held, batches)

            with trip.stepped(None):
                losses[name], first = timed(run, device)
                seconds = steady(run, device, 3)
            gap = np.abs(losses[name] - next(iter(losses.values()))).max()
            note = f"{work / seconds / peak:.2f} of the product's peak, first {first:.1f} s, "
            record(f"references, {name}", seconds, "s", note + f"differs by {gap:.1e} nats")
            if seconds < fastest:
                best, fastest = held, seconds
            del trip
    return best


def _ways(student: LanguageStudent) -> Iterator[tuple[str, LanguageStudent, bool]]:
    change = dataclasses.replace
    yield "padded", change(student, packed=False), False
    yield "packed", student, False
    if student.compute == "bfloat16":
        yield "packed, weights rounded once", student, True
    if student.model.device.type == "cuda":
        yield "packed, layers compiled", change(student, fused=True), True


def difference(ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor]) -> float:
    """‖ours - theirs‖ / ‖theirs‖."""
    gap = sum(
        float((a.float() - b.float()).square().sum()) for a, b in zip(ours, theirs, strict=True)
    )
    size = sum(float(b.float().square().sum()) for b in theirs)
    return (gap / max(size, 1e-300)) ** 0.5
