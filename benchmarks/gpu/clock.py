"""Time, rates and bytes on a device."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import TypeVar

import torch

from influbench.data.records import Example
from influbench.student import Compute, LanguageStudent

T = TypeVar("T")

PRODUCT = {"cuda": 8192, "cpu": 512}


def wait(device: torch.device) -> None:
    """Until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(function: Callable[[], T], device: torch.device) -> tuple[T, float]:
    """What a function returns, and the seconds until its work is done."""
    wait(device)
    began = time.perf_counter()
    result = function()
    wait(device)
    return result, time.perf_counter() - began


def steady(function: Callable[[], object], device: torch.device, tries: int = 5) -> float:
    """Median seconds, after one run that does not count."""
    function()
    return median(timed(function, device)[1] for _ in range(tries))


def started(function: Callable[[], object], device: torch.device, tries: int = 5) -> float:
    """Median seconds until Python goes on, with the device idle before."""

    def until_it_returns() -> float:
        wait(device)
        began = time.perf_counter()
        function()
        return time.perf_counter() - began

    return median(until_it_returns() for _ in range(tries))


def product_rate(device: torch.device, compute: Compute) -> float:
    """FLOP/s of a large square product of random numbers in this precision."""
    size = PRODUCT[device.type]
    dtype = torch.bfloat16 if compute == "bfloat16" else torch.float32
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = compute == "tf32"
    try:
        return 2 * size**3 / steady(lambda: left @ right, device)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def copy_rate(source: torch.device, target: torch.device, size: int) -> float:
    """Bytes a second of a copy; within one device, bytes read and written are both counted."""
    one = torch.ones(size, dtype=torch.uint8, device=source)
    two = torch.ones(size, dtype=torch.uint8, device=target)
    if "cuda" in (source.type, target.type) and source.type != target.type:
        if source.type == "cpu":
            one = one.pin_memory()
        else:
            two = two.pin_memory()
    waited = source if source.type == "cuda" else target
    seconds = steady(lambda: two.copy_(one, non_blocking=True), waited)
    return size * (2 if source.type == target.type else 1) / seconds


def forward_flops(student: LanguageStudent, references: Sequence[Example]) -> float:
    """What a pass must compute: no padding, causal attention, logits of response tokens only."""
    config = student.model.config
    body = sum(p.numel() for n, p in student.model.named_parameters() if ".layers." in n)
    total = 0.0
    for example in references:
        row = student.encode(example)
        time_, response = len(row.ids), len(row.learned)
        attention = 2 * config.num_hidden_layers * config.hidden_size * time_  # half: causal
        head = 2 * response * config.vocab_size * config.hidden_size
        total += time_ * (2 * body + attention) + head
    return total


def forget(device: torch.device) -> None:
    """Gives back what nothing holds any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_gb(device: torch.device) -> float:
    """Most memory of the device in use since the last ``forget``."""
    return torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else 0.0
