"""What is measured: each part is a process of its own with a limit of its own."""

from __future__ import annotations

import copy
import dataclasses
import functools
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from benchmarks import released_oracle
from benchmarks.gpu import clock, steps, students, trainings, ways
from benchmarks.gpu.rows import Recorder
from influbench.data.records import Example
from influbench.estimator import Context, Estimator, as_scores
from influbench.estimators.adam_jvp import AdamJvp
from influbench.estimators.exact import Exact
from influbench.estimators.first_order import FirstOrder
from influbench.estimators.gradient_dot import GradientDot
from influbench.generation.sampling import Sampling, complete
from influbench.student import Compute, LanguageStudent
from influbench.student.placement import place


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    device: torch.device
    small: str
    """Shape of the small student; the others follow."""
    middle: str
    large: str
    references: int
    tokens: int
    """Mean length of a reference."""
    candidates: int


HOST_SECONDS = 50.0
"""Time that weights and moments in host memory may take; fewer layers where it is not enough."""

REAL = Sizes(torch.device("cuda"), "135M", "1.1B", "8B", 256, 221, 4)
TOY = Sizes(torch.device("cpu"), "toy", "toy", "toy", 6, 80, 2)


def machine(sizes: Sizes, record: Recorder) -> None:
    """The ceilings."""
    device = sizes.device
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        record("memory", found.total_memory / 1e9, "GB", f"{found.name}, torch {torch.__version__}")
    computes: tuple[Compute, ...] = ("bfloat16", "tf32", "float32")
    for compute in computes:
        record(f"product, {compute}", clock.product_rate(device, compute) / 1e12, "TFLOP/s")
    size = 1 << (30 if device.type == "cuda" else 20)
    cpu = torch.device("cpu")
    record("copy within the device", clock.copy_rate(device, device, size) / 1e9, "GB/s")
    record("copy host to device", clock.copy_rate(cpu, device, size) / 1e9, "GB/s", "pinned")
    record("copy device to host", clock.copy_rate(device, cpu, size) / 1e9, "GB/s", "pinned")


def agreement(sizes: Sizes, record: Recorder) -> None:
    """Scores on the device, in every placement, against the CPU's."""
    cpu = torch.device("cpu")
    references = students.examples("reference", 6, sizes.tokens // 3, 10)
    candidates = students.examples("candidate", 5, sizes.tokens // 3, 10)
    moments = students.student(sizes.small, cpu)
    on_cpu = _scores(Exact(), moments, references, candidates)
    first = _scores(FirstOrder(), moments, references, candidates)
    for name, method, change in (
        ("exact, device", Exact(), {}),
        ("exact, rows padded", Exact(), {"packed": False}),
        ("exact, offloaded", Exact(), {}),
        ("first_order, device", FirstOrder(), {}),
        ("first_order, offloaded", FirstOrder(), {}),
        ("exact, tf32", Exact(), {"compute": "tf32"}),
        ("exact, bfloat16", Exact(), {"compute": "bfloat16"}),
        ("exact, bfloat16, offloaded", Exact(), {"compute": "bfloat16"}),
        ("exact, layers compiled", Exact(), {"fused": sizes.device.type == "cuda"}),
    ):
        with record.guard(name):
            held = _copied(moments, change)
            kind: Any = "offloaded" if "offloaded" in name else "device"
            held = students.budgeted(place(held, sizes.device, kind))
            found = _scores(method, held, references, candidates * 3)[: len(candidates)]
            right = first if "first" in name else on_cpu
            worst = np.abs(found - right).max() / right.std()
            rank = spearmanr(found, right)[0]
            record(
                f"{name} against the CPU in fp32",
                worst,
                "of the spread",
                f"Spearman {rank:.4f}, {len(right)} candidates, {sizes.small} shapes",
            )
        clock.forget(sizes.device)


def one_size(shape: str, compute: Compute, *, full: bool) -> Callable[[Sizes, Recorder], None]:
    """Every part of every method on one student.

    Args:
        shape: of ``students.SHAPES``, or the name of a field of the sizes.
        compute: dtype of the products.
        full: with the alternatives and the other methods.
    """

    def measure(sizes: Sizes, record: Recorder) -> None:
        device = sizes.device
        held, built = clock.timed(
            lambda: students.student(getattr(sizes, shape), device, compute), device
        )
        parameters = sum(p.numel() for p in held.model.parameters())
        record(
            "built",
            built,
            "s",
            f"{parameters / 1e6:.0f}M parameters, budgets "
            f"{held.token_budget} and {held.learning_budget} tokens",
        )
        peak = clock.product_rate(device, compute)
        references = students.examples("reference", sizes.references, sizes.tokens, 40)
        candidates = _alike(sizes)
        with record.guard("update"):
            steps.update(held, candidates[0], record, others=False)
        best = ways.references(held, references, peak, record)
        with record.guard("gradient"):
            ways.gradient(held, candidates[0], record)
        clock.forget(device)
        for method in _methods(full=full):
            _method(method, best, references, candidates, record, peak)
            clock.forget(device)
        if full:
            with record.guard("the released algorithm"):
                _released(held, references, candidates, record)

    return measure


def one_step(sizes: Sizes, record: Recorder) -> None:
    """The step, a gradient, and ``first_order`` that is made of both, on the student in bf16."""
    device = sizes.device
    held, built = clock.timed(lambda: students.student(sizes.middle, device, "bfloat16"), device)
    parameters = sum(p.numel() for p in held.model.parameters())
    record("built", built, "s", f"{parameters / 1e6:.0f}M parameters")
    candidates = _alike(sizes)
    for name, part in (("update", steps.update), ("first_order", steps.first_order)):
        with record.guard(name):
            part(held, candidates[0], record)
        clock.forget(device)
    with record.guard("gradient"):
        ways.gradient(held, candidates[0], record, several=False)
    clock.forget(device)
    references = students.examples("reference", sizes.references, sizes.tokens, 40)
    _method(("first_order", FirstOrder()), held, references, candidates, record, 1.0)


def large(sizes: Sizes, record: Recorder) -> None:
    """The exact influence on a student whose moments do not fit the device."""
    device = sizes.device
    _, seconds = clock.timed(
        lambda: students.on_host(torch.zeros(1 << (29 if device.type == "cuda" else 10)), device),
        device,
    )
    rate = (2 << 30) / seconds
    record("host memory fetched and pinned", rate / 1e9, "GB/s", f"2 GB in {seconds:.1f} s")
    layers = students.layers_within(sizes.large, rate * HOST_SECONDS)
    held, built = clock.timed(
        lambda: students.offloaded(sizes.large, device, "bfloat16", layers), device
    )
    parameters = sum(p.numel() for p in held.model.parameters())
    note = f"{parameters / 1e6:.0f}M parameters, {layers} layers, budgets "
    record("built", built, "s", f"{note}{held.token_budget} and {held.learning_budget} tokens")
    references = students.examples("reference", sizes.references, sizes.tokens, 40)
    candidates = _alike(sizes)[:3]
    peak = clock.product_rate(device, "bfloat16")
    clock.forget(device)
    plain = ("exact", Exact())
    _method(plain, held, references, candidates[:1], record, peak, warm=1)
    if device.type == "cuda":
        compiled = dataclasses.replace(held, fused=True)
        method = ("exact, layers compiled", Exact())
        _method(method, compiled, references, candidates, record, peak, warm=1)
    with record.guard("update, streamed from host memory"):
        step = ways.updates.next_update(held)
        found = ways.gradients.gradient(held, step.weights, candidates[0])
        record(
            "gradient",
            clock.steady(
                lambda: ways.gradients.gradient(held, step.weights, candidates[0]), device, 1
            ),
            "s",
        )
        copies = [w.detach().clone() for w in step.weights]
        seconds = clock.steady(lambda: step.apply(found, copies), device, 1)
        moved = 12 * sum(w.numel() for w in step.weights)
        record(
            "update, streamed from host memory", seconds, "s", f"{moved / seconds / 1e9:.0f} GB/s"
        )


def generation(sizes: Sizes, record: Recorder) -> None:
    """Tokens a second of the sampling loop on the small student's shapes."""
    device = sizes.device
    held = students.student(sizes.small, device, moments=False)
    new = 64 if device.type == "cuda" else 8
    sampling = Sampling(max_new_tokens=new)

    def run(rows: int) -> object:
        prompts = [f"<|im_start|>user\nWrite {i}" + "." * 60 for i in range(rows)]
        ids = [str(i) for i in range(rows)]
        return complete(
            held.model,
            held.tokenizer,  # pyright: ignore[reportArgumentType]
            prompts,
            ids=ids,
            seed=0,
            sampling=sampling,
            batch_size=rows,
            stop=("</response>",),
        )

    for dtype in (torch.float32, torch.bfloat16):
        held.model.to(dtype)  # pyright: ignore[reportArgumentType]
        for rows in (16, 64, 256) if device.type == "cuda" else (4,):
            seconds = clock.steady(functools.partial(run, rows), device, 2)
            name = f"generation, {rows} rows, {str(dtype)[6:]}"
            record(name, rows * new / seconds, "tokens/s", "one stop string; no row ends")


def training(sizes: Sizes, record: Recorder) -> None:
    """A step of SFT on the small and the middle student."""
    for shape in dict.fromkeys((sizes.small, sizes.middle)):
        trainings.step(shape, sizes.tokens, sizes.device, record)


def loop(sizes: Sizes, record: Recorder) -> None:
    """A whole run of the smallest preset on the device."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "influbench", "run", "tiny"]
        command += ["--results", f"{folder}/results", "--store", f"{folder}/store"]

        def run() -> None:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            assert done.returncode == 0, (done.stderr or done.stdout).strip()[-300:]

        record("influbench run tiny", clock.timed(run, sizes.device)[1], "s", "with imports")


def _methods(*, full: bool) -> list[tuple[str, Estimator]]:
    found: list[tuple[str, Estimator]] = [("exact", Exact()), ("first_order", FirstOrder())]
    if not full:
        return found
    ways_: tuple[Any, ...] = ("jvp", "ghost")
    found += [("gradient_dot", GradientDot())]
    found += [
        (f"adam_jvp, no preconditioner, {way}", AdamJvp(method=way, preconditioner="none"))
        for way in ways_
    ]
    step = AdamJvp(method="central_difference", preconditioner="none", step=1e-3)
    return [*found, ("adam_jvp, no preconditioner, central difference", step)]


_SEEN: dict[str, np.ndarray] = {}
"""Scores of methods that others are compared with."""


def _method(
    named: tuple[str, Estimator],
    held: LanguageStudent,
    references: Sequence[Example],
    candidates: Sequence[Example],
    record: Recorder,
    peak: float,
    warm: int = 3,
) -> None:
    """Seconds to prepare and a candidate of one method, all candidates of one length.

    ``warm`` candidates do not count: a length that has come often enough is recorded.
    """
    (name, method), device = named, held.model.device
    with record.guard(name), tempfile.TemporaryDirectory() as folder:
        ctx = Context(held, references, candidates[:1], Path(folder), seed=0)
        scorer, prepare = clock.timed(lambda: method.prepare(ctx), device)
        scorer(list(candidates[:1]) * warm)
        found, seconds = clock.timed(lambda: scorer(candidates), device)
        scores = as_scores(found, len(candidates)).value
        note = f"{prepare:.2f} s to prepare, peak {clock.peak_gb(device):.1f} GB"
        if name.startswith("exact"):
            share = clock.forward_flops(held, references) * len(candidates) / seconds / peak
            note += f", {share:.2f} of the product's peak over all"
        if name == "gradient_dot":
            _SEEN[name] = scores
        elif name.startswith("adam_jvp") and "gradient_dot" in _SEEN:
            right = _SEEN["gradient_dot"]
            note += f", {np.abs(scores - right).max() / right.std():.1e} of gradient_dot's spread"
        record(f"{name}, a candidate", seconds / len(candidates), "s", note)


def _released(
    held: LanguageStudent,
    references: Sequence[Example],
    candidates: Sequence[Example],
    record: Recorder,
) -> None:
    """The released algorithm with bf16 weights, its checkpoint in the device's memory."""
    model, optimizer, device = held.model, held.optimizer, held.model.device
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []
    for weight in model.parameters():
        weight.data = weight.data.bfloat16()
        kept.append((weight.data, weight.data.clone()))
        state = optimizer.state[weight]
        for key in ("exp_avg", "exp_avg_sq"):
            state[key] = state[key].bfloat16()
            kept.append((state[key], state[key].clone()))
    plain = dataclasses.replace(held, compute="float32")

    def candidate(example: Example) -> None:
        with torch.no_grad():
            for now, before in kept:
                now.copy_(before)
        released_oracle.step(plain, example)
        released_oracle.reference_loss(plain, references)

    candidate(candidates[0])
    seconds = clock.timed(lambda: candidate(candidates[1]), device)[1]
    record("the released algorithm, a candidate", seconds, "s", "bf16 weights")


def _alike(sizes: Sizes) -> list[Example]:
    """Candidates of one length, so that what is recorded for one serves all."""
    return students.examples("candidate", sizes.candidates, sizes.tokens, 0)


def _scores(
    method: Estimator,
    held: LanguageStudent,
    references: Sequence[Example],
    candidates: Sequence[Example],
) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        ctx = Context(held, references, candidates[:1], Path(folder), seed=0)
        return as_scores(method.prepare(ctx)(candidates), len(candidates)).value


def _copied(held: LanguageStudent, change: dict[str, Any]) -> LanguageStudent:
    """The same student in memory of its own."""
    return dataclasses.replace(copy.deepcopy(held), **change)


PARTS: dict[str, Callable[[Sizes, Recorder], None]] = {
    "machine": machine,
    "1.1B step": one_step,
    "1.1B bf16": one_size("middle", "bfloat16", full=True),
    "agreement": agreement,
    "8B bf16 offloaded": large,
    "135M bf16": one_size("small", "bfloat16", full=True),
    "1.1B tf32": one_size("middle", "tf32", full=False),
    "135M fp32": one_size("small", "float32", full=False),
    "generation": generation,
    "training": training,
    "loop": loop,
}
