"""The toolkit's side of the file contract; runs in the toolkit's environment, without influbench.

A worker is called as ``python WORKER FOLDER``. It reads ``FOLDER/meta.json`` (options, seed, pad
token …), ``FOLDER/model`` (a Hugging Face model), ``references.jsonl`` and ``warmup.jsonl``
(tokens, so that nobody tokenises twice), prepares, writes ``FOLDER/worker.json`` and prints
``ready``. Then for each name of a job on its standard input it reads
``FOLDER/JOB/candidates.jsonl``, writes ``scores.npy`` (float64, shape [candidate]) and
``meta.json`` beside it, and prints the name. Both JSON files hold the passes through the network
that :func:`watch` was given, made since the last of them.
It ends when its input does: whoever asked is gone then, however that process ended, and a second
later also what is still being computed for it is ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FORMAT = 3
SIGN = "positive lowers the reference loss"
GRACE_SECONDS = 1.0
"""Between the end of the input and that of work which nobody waits for."""


class Row(NamedTuple):
    """A tokenised example."""

    id: str
    ids: list[int]
    learned: list[int]
    """Positions of the response tokens."""


Scorer = Callable[[Sequence[Row]], np.ndarray]
Prepare = Callable[[Path, dict[str, Any]], tuple[dict[str, Any], Scorer]]


_PASSES = {"forward": 0, "backward": 0, "positions": 0}
"""Sequences forward and backward, and token positions forward, since they were last told."""


def watch(backbone: Any) -> None:
    """Counts what goes through a network: each sequence forward, each whose gradient comes back.

    A tangent that goes forward with a sequence is one more, as in ``influbench.store.passes``.

    Args:
        backbone: the part of a Hugging Face model below its head, which every pass goes through.
    """
    from torch.autograd import forward_ad  # a worker without torch has nothing to watch

    def forward(_: Any, args: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        ids = named.get("input_ids")
        ids = args[0] if ids is None else ids
        times = 1 if forward_ad.unpack_dual(output[0]).tangent is None else 2
        _PASSES["forward"] += times * len(ids)
        _PASSES["positions"] += times * ids.numel()
        if output[0].requires_grad:
            output[0].register_hook(lambda gradient: backward(len(gradient)))

    def backward(sequences: int) -> None:
        _PASSES["backward"] += sequences

    backbone.register_forward_hook(forward, with_kwargs=True)


def _passes() -> dict[str, int]:
    told = dict(_PASSES)
    _PASSES.update(dict.fromkeys(_PASSES, 0))
    return told


def read_rows(path: Path) -> list[Row]:
    """Tokenised examples, one a line."""
    with path.open(encoding="utf-8") as file:
        return [Row(**json.loads(line)) for line in file]


def serve(prepare: Prepare) -> None:
    """Keeps the contract around a toolkit.

    Args:
        prepare: called with the folder and its ``meta.json``; returns facts (``toolkit``,
            ``version``, ``unit``, ``parameter_share``, maybe ``diagnostics``) and a function from
            rows to scores.
    """
    # What a toolkit prints must not reach the other side.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    folder = Path(sys.argv[1])
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    jobs = _jobs()
    facts, score = prepare(folder, meta)
    facts = {"format": FORMAT, "sign": SIGN, **facts}
    _write_json(folder / "worker.json", {**facts, "passes": _passes()})
    _answer(answers, "ready")
    while name := jobs.get():
        job = folder / name
        rows = read_rows(job / "candidates.jsonl")
        _forget_peak()
        np.save(job / "scores.npy", np.asarray(score(rows), dtype=np.float64))
        ids = [row.id for row in rows]
        told = {"ids": ids, "peak_bytes": _peak(), "passes": _passes()}
        _write_json(job / "meta.json", {**facts, **told})
        _answer(answers, name)


def _jobs() -> queue.SimpleQueue[str]:
    """Names of jobs as they come; an empty one is the end of the input."""
    jobs: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        rest = b""
        # Not sys.stdin: a thread that waits in its lock is a fatal error at an interpreter's end.
        while chunk := os.read(0, 1 << 16):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                jobs.put(line.decode())
        jobs.put("")
        time.sleep(GRACE_SECONDS)
        os._exit(1)

    threading.Thread(target=listen, daemon=True).start()
    return jobs


def _forget_peak() -> None:
    with contextlib.suppress(OSError):  # elsewhere than on Linux: the peak is that of its life
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak() -> int:
    """Most resident memory since it was last forgotten, bytes; 0 where that is not known."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    lines = status.read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def _answer(answers: Any, text: str) -> None:
    answers.write(text + "\n")
    answers.flush()


def _write_json(path: Path, content: dict[str, Any]) -> None:
    half = path.with_suffix(".part")
    half.write_text(json.dumps(content), encoding="utf-8")
    half.replace(path)
