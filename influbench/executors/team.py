"""Processes that torchrun started, which compute on one student in shards: the first one leads.

The first process runs the command as if it were alone: store, judge, result files and the screen
are its own. The others wait to be called; then they run the same function on the same inputs, with
a folder of their own that is thrown away, so that all meet in every pass through the student.

    torchrun --nproc-per-node 8 -m influbench score --placement sharded ...
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from influbench.errors import UserError
from influbench.store import Meter, Work
from influbench.store.entry import LEDGER

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

WAIT = timedelta(days=30)
"""How long the others wait for what the first one does alone."""


def size() -> int:
    """How many processes torchrun started; 0 where it started none."""
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 0


def follows() -> bool:
    """Whether this process waits to be called."""
    return size() > 0 and os.environ["RANK"] != "0"


def call(function: Callable[..., object], *args: Any, **more: Any) -> None:
    """Has the others run ``function(*args, work=…, **more)``; the caller goes on and does so too.

    Args:
        function: of a module; it must make the same passes in every process.
        *args: plain data, as all further arguments.
        **more: further arguments beside ``work``.
    """
    _sent((function, args, more))


def serve() -> None:
    """What a process does that waits to be called, until the first one has ended."""
    while (told := _sent(None)) is not None:
        function, args, more = told
        with tempfile.TemporaryDirectory(prefix="influbench-") as folder:
            meter = Meter(Path(folder) / LEDGER, stage="share", label="")
            try:
                function(*args, **more, work=Work(Path(folder), meter))
            except UserError:  # the first process has met it too, and says so
                continue
    _leave()


def dismiss() -> None:
    """The first process has ended: so do the others. Nothing happens where there are none."""
    if size():
        _sent(None)
        _leave()


def device(asked: str) -> str:
    """The device of this process's shards: each its own GPU of a machine, where there are any."""
    import torch

    if asked not in ("auto", "cuda") or not torch.cuda.is_available():
        return asked
    own = f"cuda:{os.environ['LOCAL_RANK']}"
    torch.cuda.set_device(own)
    return own


def _sent(message: Any) -> Any:
    """What the first process sends; the others' own is not looked at."""
    from torch import distributed

    held = [message]
    distributed.broadcast_object_list(held, src=0, group=_waiting())
    return held[0]


@functools.cache
def _waiting() -> ProcessGroup:
    """The group to wait in, on the CPU; made with the one that passes through a student use."""
    import torch
    from torch import distributed

    distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    group = distributed.new_group(backend="gloo", timeout=WAIT)
    assert isinstance(group, distributed.ProcessGroup)
    return group


def _leave() -> None:
    from torch import distributed

    _waiting.cache_clear()  # else a group with threads of its own would live on to the exit
    distributed.destroy_process_group()
