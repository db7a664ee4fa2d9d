"""Candidates over several processes: each worker owns whole chunks, and finished chunks are kept.

Worker r of N takes the chunks r, r + N, r + 2N … of one scoring stage and writes them where a
single process would (``influbench.store.chunks``), so the stage's records are the same ones in the
same order, whatever N is, and a kill loses what N workers have under way. Every worker loads the
student and pays ``prepare`` itself: memory and set-up cost are N times a process's, and the ledger
adds the seconds of all workers up.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from influbench.errors import UserError
from influbench.meter import Meter
from influbench.store import Work
from influbench.store.entry import LEDGER


@dataclass(frozen=True)
class Share:
    """One worker's part of a stage's chunks."""

    rank: int = 0
    count: int = 1

    def owns(self, chunk: int) -> bool:
        """Whether chunk number ``chunk`` is this worker's."""
        return chunk % self.count == self.rank


def fan_out(
    function: Callable[..., object],
    workers: int,
    args: Sequence[Any],
    work: Work,
    *,
    chunks: str,
    total: int,
) -> None:
    """Runs ``function(*args, share=…, work=…)`` in ``workers`` processes and waits for them.

    Args:
        function: of a module, so that a fresh process can import it.
        workers: how many; each gets its share of the cores.
        args: plain data.
        work: the stage's; every worker writes through one of its own over the same folder.
        chunks: name of the chunks that they write.
        total: how many there will be.

    Raises:
        UserError: the first that a worker raised; the others are stopped.
        RuntimeError: a worker ended in another way.
    """
    spawn = multiprocessing.get_context("spawn")
    running: dict[Connection, BaseProcess] = {}
    for rank in range(workers):
        ours, theirs = spawn.Pipe(duplex=False)
        told = (function, tuple(args), Share(rank, workers), _plain(work), theirs)
        process = spawn.Process(target=_worker, args=told, daemon=True)
        process.start()
        theirs.close()
        running[ours] = process
    done = work.finished(chunks)
    try:
        with work.progress.task(f"{work.title}: chunks, {workers} workers", total, done) as advance:
            while running:
                for connection in wait(list(running), timeout=1.0):
                    assert isinstance(connection, Connection)
                    process = running.pop(connection)
                    _raise(_last_word(connection), process)
                now = work.finished(chunks)
                advance(now - done)
                done = now
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.join()


def _plain(work: Work) -> tuple[Path, str, str, str]:
    return work.path, work.meter.stage, work.meter.label, work.title


def _worker(
    function: Callable[..., object],
    args: tuple[Any, ...],
    share: Share,
    told: tuple[Path, str, str, str],
    parent: Connection,
) -> None:
    import torch

    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(max(1, torch.get_num_threads() // share.count))
    path, stage, label, title = told
    meter = Meter(path / LEDGER, stage=stage, label=label)
    try:
        function(*args, share=share, work=Work(path, meter, title=title))
    except UserError as error:
        parent.send(str(error))
    except BaseException:
        sys.stderr.write(traceback.format_exc())
        os._exit(1)
    else:
        parent.send(None)


def _end_with_parent() -> None:
    """A worker whose parent was killed must not go on beside the parent's next attempt."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _last_word(connection: Connection) -> str | EOFError | None:
    try:
        return connection.recv()
    except EOFError as end:
        return end


def _raise(word: str | EOFError | None, process: BaseProcess) -> None:
    process.join()
    if isinstance(word, EOFError):
        raise RuntimeError(
            f"a scoring worker ended with exit code {process.exitcode}; finished chunks are kept"
        )
    if word is not None:
        raise UserError(word)


def device_of(device: str, share: Share) -> str:
    """The device of one worker: GPUs are dealt out in turn, everything else is as it was asked."""
    if share.count == 1 or device not in ("auto", "cuda"):
        return device
    import torch

    gpus = torch.cuda.device_count()
    return f"cuda:{share.rank % gpus}" if gpus else device
