"""Measures how fast this machine works, with the small model that comes in a package (a minute).

On a CPU seconds are CPU seconds of the thread that asks, which does its share of every product and
alone what lies between them: the wall time that the work takes where the cores are free, measured
on a machine that others use too. On a GPU they are wall time.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch

from influbench import models
from influbench.generation.sampling import complete
from influbench.generation.settings import Sampling
from influbench.loop.plan.calibration import Speeds
from influbench.loop.plan.shapes import shape_of
from influbench.models.chat import chat_prompt

MODEL = "smollm2-135m-instruct"
ROWS, LENGTH = 8, 64
"""Of a pass: as long and as many as short exchanges are."""
DECODED, NEW = 32, 10
"""Rows of a measured decoding and tokens of each."""
TEXT = "Tell the story of a day on a lake in a small boat, in as many words as you like."


def calibrate(device: str = "auto", model: str = MODEL) -> Speeds:
    """The speeds of this machine, each from the least of two times.

    Args:
        device: where.
        model: a model that :func:`influbench.loop.plan.shapes.shape_of` knows.
    """
    read: dict[str, float] = {}
    learn: dict[str, float] = {}
    write: dict[str, float] = {}
    stream: dict[str, float] = {}
    update = load = save = 0.0
    weights = shape_of(model).parameters
    ref = models.resolve(model)
    place = models.device_of(device)
    for name in ("bfloat16", "float32"):
        began = _now(place)
        net, tokenizer = models.load(ref, dtype=name, device=device)
        load = 4 * weights / (_now(place) - began)
        if name == "float32":
            save = 4 * weights / _saved(net, tokenizer, place)
        ids = torch.randint(0, 200, (ROWS, LENGTH), device=net.device)
        flops = 2 * weights * ids.numel()
        read[name] = flops / _timed(lambda net=net, ids=ids: _forward(net, ids), place)
        # One token reads every weight once: a decoding step's fixed part, the pass's own included.
        alone = _timed(lambda net=net, ids=ids: _forward(net, ids[:1, :1]), place)
        stream[name] = (4 if name == "float32" else 2) * weights / alone
        seconds, tokens = _decode(net, tokenizer, place)
        beyond = seconds - NEW * alone
        write[name] = min(2 * weights * tokens / max(beyond, 1e-9), read[name])
        if name == "float32":
            net.train()
            for compute in ("bfloat16", "float32"):
                learn[compute] = (
                    3 * flops / _timed(lambda c=compute, n=net, i=ids: _backward(n, i, c), place)
                )
            optimizer = torch.optim.AdamW(net.parameters(), lr=0.0, weight_decay=0.0)
            optimizer.step()  # makes the moments
            update = weights / _timed(optimizer.step, place)
        del net
    read["tf32"], learn["tf32"] = read["float32"], learn["float32"]
    spent = f", CPU seconds of one of {torch.get_num_threads()} threads" if place == "cpu" else ""
    return Speeds(
        where=f"this machine ({models.device_in_words(place)}), measured with {model}{spent}",
        read=read,
        learn=learn,
        stream=stream,
        write=write,
        update=update,
        load=load,
        save=save,
        start=0.0,
        memory=_memory(place),
    )


def _now(device: str) -> float:
    """A clock in seconds."""
    if device != "cpu":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.thread_time()


def _timed(work: Callable[[], object], device: str) -> float:
    """Seconds of one call: the least of two after a first one that is not counted."""
    work()
    seconds: list[float] = []
    for _ in range(2):
        began = _now(device)
        work()
        seconds.append(_now(device) - began)
    return min(seconds)


def _saved(net: Any, tokenizer: Any, device: str) -> float:
    """Seconds of writing a model."""
    with tempfile.TemporaryDirectory() as folder:
        began = _now(device)
        models.save(net, tokenizer, Path(folder))
        return _now(device) - began


@torch.no_grad()
def _forward(net: torch.nn.Module, ids: torch.Tensor) -> None:
    net(input_ids=ids, use_cache=False, logits_to_keep=1)


def _backward(net: torch.nn.Module, ids: torch.Tensor, compute: str) -> None:
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=compute == "bfloat16"):
        loss = net(input_ids=ids, labels=ids, use_cache=False).loss
    for weight in net.parameters():
        weight.grad = None
    loss.backward()


def _decode(net: Any, tokenizer: Any, device: str) -> tuple[float, int]:
    """Seconds and tokens of ``NEW`` decoding steps: a text twice as long less one that long.

    The tokens are counted, since a row may end before its time.
    """
    prompt = chat_prompt(tokenizer, [("user", TEXT)])

    def write(new: int) -> int:
        written = complete(
            net,
            tokenizer,
            [prompt] * DECODED,
            ids=[str(row) for row in range(DECODED)],
            seed=0,
            sampling=Sampling(temperature=1.0, top_p=0.9, presence_penalty=1.0, max_new_tokens=new),
            batch_size=DECODED,
        )
        return sum(completion.tokens for completion in written)

    seconds = _timed(lambda: write(2 * NEW), device) - _timed(lambda: write(NEW), device)
    return max(seconds, 0), write(2 * NEW) - write(NEW)


def _memory(device: str) -> float:
    if device == "cpu":
        return float(psutil.virtual_memory().total)
    return float(torch.cuda.get_device_properties(device).total_memory)
