"""A stage's chunks shared by the workers of an executor.

Each worker owns every N-th chunk of a running stage and writes them where a single process would
(``influbench.store.chunks``), so the stage's records are the same ones in the same order, whatever
N is, and a worker that is lost costs the chunk that it had under way: its share goes on elsewhere.
Every worker loads the student once and pays ``prepare`` itself: memory and set-up cost are N times
a process's, and the ledger adds the seconds of all workers up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from influbench.executors import making
from influbench.executors.executor import mapped
from influbench.executors.making import ExecutorConfig
from influbench.store import Meter, Work
from influbench.store.entry import LEDGER


@dataclass(frozen=True)
class Share:
    """One worker's part of a stage's chunks."""

    rank: int = 0
    count: int = 1
    only: frozenset[int] | None = None
    """The chunks to be made; None = all."""

    def owns(self, chunk: int) -> bool:
        """Whether chunk number ``chunk`` is this worker's."""
        return chunk % self.count == self.rank and (self.only is None or chunk in self.only)


def shared(
    executor: ExecutorConfig,
    function: Callable[..., object],
    args: Sequence[Any],
    work: Work,
    *,
    chunks: str,
    total: int,
) -> None:
    """Runs ``function(*args, share=…, work=…)`` in all workers and waits for them.

    Args:
        executor: where; its ``workers`` are how many.
        function: of a module, so that a fresh process can import it.
        args: plain data.
        work: the stage's; every worker writes through one of its own over the same folder.
        chunks: name of the chunks that they write.
        total: how many there will be.

    Raises:
        UserError: the first that a worker raised; the others are stopped.
        MethodError: likewise, of somebody else's estimator.
        RuntimeError: a worker ended in another way.
    """
    told = work.path, work.meter.stage, work.meter.label, work.title
    count = executor.workers
    tasks = [(function, tuple(args), Share(rank, count), told) for rank in range(count)]
    done = work.finished(chunks)
    where = "" if executor.kind == "pool" else f" on {executor.kind}"
    title = f"{work.title}: chunks, {count} workers{where}"
    logs = work.path.parent / ".jobs"
    with (
        closing(making.build(executor, logs)) as workers,
        work.progress.task(title, total, done) as advance,
    ):

        def look() -> None:
            nonlocal done
            now = work.finished(chunks)
            advance(now - done)
            done = now

        for _, outcome in mapped(workers, _worker, tasks, tick=look):
            outcome.or_raise()


def _worker(
    function: Callable[..., object],
    args: tuple[Any, ...],
    share: Share,
    told: tuple[Path, str, str, str],
    _patient: bool,
) -> None:
    path, stage, label, title = told
    meter = Meter(path / LEDGER, stage=stage, label=label)
    function(*args, share=share, work=Work(path, meter, title=title))


def device_of(device: str, share: Share) -> str:
    """The device of one worker: GPUs are dealt out in turn, everything else is as it was asked."""
    if share.count == 1 or device not in ("auto", "cuda"):
        return device
    import torch

    gpus = torch.cuda.device_count()
    return f"cuda:{share.rank % gpus}" if gpus else device
