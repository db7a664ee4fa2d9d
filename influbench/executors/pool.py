"""Processes of this machine: the standard library's pool, renewed when a worker is lost.

Every worker gets its share of the cores and ends with the process that started it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from influbench.executors.executor import Outcome, WorkerLostError, attempt


class Pool:
    """A pool of processes."""

    def __init__(self, workers: int) -> None:
        """A pool of so many ``workers``, which start with the first task."""
        self.workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Outcome]:
        """See ``Executor``. A lost worker takes its siblings with it: the pool is made anew."""
        told: Future[Outcome] = Future()
        try:
            inner = self._running().submit(attempt, function, *args)
        except BrokenProcessPool:
            self.close()
            inner = self._running().submit(attempt, function, *args)
        inner.add_done_callback(lambda done: _pass_on(done, told))
        return told

    def close(self) -> None:
        """See ``Executor``."""
        if self._pool is None:
            return
        pool, self._pool = self._pool, None
        processes = list((pool._processes or {}).values())
        for process in processes:  # what still runs when we leave is not wanted any more
            process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)

    def _running(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self.workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_begin,
                initargs=(self.workers,),
            )
        return self._pool


def _begin(workers: int) -> None:
    """What a fresh worker does first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(max(1, torch.get_num_threads() // workers))


def _end_with_parent() -> None:
    """A worker whose parent was killed must not go on beside the parent's next attempt."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _pass_on(done: Future[Outcome], told: Future[Outcome]) -> None:
    if done.cancelled():
        told.cancel()
        return
    error = done.exception()
    if error is None:
        told.set_result(done.result())
    elif isinstance(error, BrokenProcessPool):
        told.set_exception(WorkerLostError(str(error)))
    else:
        told.set_exception(error)
