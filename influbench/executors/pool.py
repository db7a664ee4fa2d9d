"""Processes of this machine: the standard library's, each renewed when it is lost.

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
from functools import partial
from typing import Any

from influbench.executors.executor import Outcome, WorkerLostError, attempt


class Pool:
    """Processes, each a pool of its own: the library's pool ends all when one is lost."""

    def __init__(self, workers: int) -> None:
        """So many ``workers``, each of which starts with its first task."""
        self.workers = workers
        self._all: set[ProcessPoolExecutor] = set()
        self._idle: list[ProcessPoolExecutor] = []
        self._lock = threading.Lock()

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Outcome]:
        """See ``Executor``; no more than ``workers`` tasks at a time."""
        told: Future[Outcome] = Future()
        while True:
            one = self._free()
            try:
                inner = one.submit(attempt, function, *args)
            except BrokenProcessPool:  # lost while it had nothing to do
                self._lost(one)
            else:
                inner.add_done_callback(partial(self._ended, one, told))
                return told

    def close(self) -> None:
        """See ``Executor``."""
        with self._lock:
            every, self._all, self._idle = self._all, set[ProcessPoolExecutor](), []
        processes = [process for one in every for process in (one._processes or {}).values()]
        for process in processes:  # what still runs when we leave is not wanted any more
            process.terminate()
        for one in every:
            one.shutdown(wait=True, cancel_futures=True)

    def _free(self) -> ProcessPoolExecutor:
        with self._lock:
            if self._idle:
                return self._idle.pop()
            one = ProcessPoolExecutor(
                1,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_begin,
                initargs=(self.workers,),
            )
            self._all.add(one)
            return one

    def _ended(
        self, one: ProcessPoolExecutor, told: Future[Outcome], done: Future[Outcome]
    ) -> None:
        """Takes a worker back, and then tells: who is told may submit at once."""
        if not done.cancelled() and isinstance(done.exception(), BrokenProcessPool):
            self._lost(one)
        else:
            with self._lock:
                if one in self._all:  # else we have been closed
                    self._idle.append(one)
        _pass_on(done, told)

    def _lost(self, one: ProcessPoolExecutor) -> None:
        with self._lock:
            self._all.discard(one)
        one.shutdown(wait=False)


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
