"""Measures how fast this machine works, with the small model that comes in a package (a minute)."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil
import torch

from influbench import models
from influbench.generation.choosing import Sampling
from influbench.generation.sampling import complete
from influbench.loop.plan.calibration import Speeds
from influbench.loop.plan.shapes import shape_of

MODEL = "smollm2-135m-instruct"
ROWS, LENGTH = 8, 64
"""Of a pass: as long and as many as short exchanges are."""
NEW = 20
"""Tokens a row of a measured decoding."""
TEXT = "List three things that a small boat needs for a day on a lake, and say why."


def calibrate(device: str = "auto", model: str = MODEL) -> Speeds:
    """The speeds of this machine, each from the least of three times.

    ``where`` says how busy it was.

    Args:
        device: where.
        model: a model that :func:`influbench.loop.plan.shapes.shape_of` knows.
    """
    read: dict[str, float] = {}
    learn: dict[str, float] = {}
    write: dict[str, float] = {}
    update = load = stream = 0.0
    weights = shape_of(model).parameters
    ref = models.resolve(model)
    place = models.device_of(device)
    wall, own = time.perf_counter(), time.process_time()
    for name in ("bfloat16", "float32"):
        began = time.perf_counter()
        net, tokenizer = models.load(ref, dtype=name, device=device)
        load = 4 * weights / (time.perf_counter() - began)
        ids = torch.randint(0, 200, (ROWS, LENGTH), device=net.device)
        flops = 2 * weights * ids.numel()
        read[name] = flops / _timed(lambda net=net, ids=ids: _forward(net, ids), place)
        # One token reads every weight once: a decoding step's fixed part, the pass's own included.
        alone = _timed(lambda net=net, ids=ids: _forward(net, ids[:1, :1]), place)
        stream = (4 if name == "float32" else 2) * weights / alone
        beyond = _decode(net, tokenizer, 32, place) - alone
        write[name] = min(2 * weights * 32 / max(beyond, 1e-9), read[name])
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
    share = (time.process_time() - own) / (time.perf_counter() - wall) / torch.get_num_threads()
    return Speeds(
        where=f"this machine ({models.device_in_words(place)}), measured with {model}; "
        f"this program had {min(share, 1):.0%} of {torch.get_num_threads()} threads meanwhile",
        read=read,
        learn=learn,
        stream=stream,
        write=write,
        update=update,
        load=load,
        start=0.0,
        memory=_memory(place),
    )


def _timed(work: Callable[[], object], device: str) -> float:
    """Seconds of one call: the least of three after a first one that is not counted."""
    work()
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


@torch.no_grad()
def _forward(net: torch.nn.Module, ids: torch.Tensor) -> None:
    net(input_ids=ids, use_cache=False, logits_to_keep=1)


def _backward(net: torch.nn.Module, ids: torch.Tensor, compute: str) -> None:
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=compute == "bfloat16"):
        loss = net(input_ids=ids, labels=ids, use_cache=False).loss
    for weight in net.parameters():
        weight.grad = None
    loss.backward()


def _decode(net: object, tokenizer: object, rows: int, device: str) -> float:
    """Seconds of one decoding step of so many rows: twice as long a text less once."""

    def write(new: int) -> None:
        complete(
            net,  # pyright: ignore[reportArgumentType]
            tokenizer,  # pyright: ignore[reportArgumentType]
            [TEXT] * rows,
            ids=[str(row) for row in range(rows)],
            seed=0,
            sampling=Sampling(temperature=1.0, top_p=0.9, max_new_tokens=new),
            batch_size=rows,
        )

    return max(_timed(lambda: write(2 * NEW), device) - _timed(lambda: write(NEW), device), 0) / NEW


def _memory(device: str) -> float:
    if device == "cpu":
        return float(psutil.virtual_memory().total)
    return float(torch.cuda.get_device_properties(device).total_memory)
