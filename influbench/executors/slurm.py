"""Slurm, through submitit (extra ``slurm``); with ``cluster: local`` its own local executor.

A task is a job. submitit carries tasks and outcomes as pickles in a folder that only this command
reads, made anew for each; nothing of the store is a pickle.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from typing import Any

from influbench.errors import UserError, require
from influbench.executors.executor import Outcome, WorkerLostError, attempt

POLL = 0.2
"""Seconds between two looks at a job; Slurm itself is asked less often by submitit."""


class Slurm:
    """Jobs of a Slurm cluster, or of this machine by submitit's local executor."""

    def __init__(
        self,
        workers: int,
        folder: Path,
        *,
        cluster: str = "slurm",
        gpus: int = 0,
        memory_gb: float | None = None,
        hours: float = 24.0,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        """Jobs that are not started yet.

        Args:
            workers: how many jobs at a time.
            folder: shared by all nodes; logs of the jobs stay in it.
            cluster: ``slurm``, or ``local`` for processes of this machine.
            gpus: of a job.
            memory_gb: of a job.
            hours: after which a job is ended by Slurm; a sweep given again goes on.
            more: other parameters of ``submitit.AutoExecutor.update_parameters``, such as
                ``slurm_partition``.

        Raises:
            UserError: submitit or Slurm is not there.
        """
        require("slurm", "--executor slurm")
        import submitit

        folder.mkdir(parents=True, exist_ok=True)
        self.workers = workers
        logs = tempfile.mkdtemp(dir=folder, prefix=time.strftime("%Y%m%d-%H%M%S-"))
        try:
            self._executor = submitit.AutoExecutor(logs, cluster=cluster)
        except RuntimeError as error:
            raise UserError(
                f"--executor slurm: {error}; is this a node that can submit?"
            ) from error
        asked: dict[str, Any] = {"timeout_min": round(60 * hours), "gpus_per_node": gpus}
        if memory_gb is not None:
            asked["mem_gb"] = memory_gb
        self._executor.update_parameters(**asked, **(more or {}))
        self._jobs: list[Any] = []

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Outcome]:
        """See ``Executor``."""
        job = self._executor.submit(_on_a_node, function, args, dict(_settings()))
        self._jobs.append(job)
        told: Future[Outcome] = Future()
        Thread(target=_follow, args=(job, told), daemon=True).start()
        return told

    def close(self) -> None:
        """See ``Executor``."""
        for job in self._jobs:
            if not job.done():
                job.cancel(check=False)


def _settings() -> dict[str, str]:
    """The variables that a job must have as we do: where models are, what is offline."""
    return {k: v for k, v in os.environ.items() if k.startswith(("INFLUBENCH_", "HF_", "OMP_"))}


def _on_a_node(
    function: Callable[..., Any], args: tuple[Any, ...], settings: dict[str, str]
) -> Outcome:
    os.environ.update(settings)
    return attempt(function, *args)


def _follow(job: Any, told: Future[Outcome]) -> None:
    from submitit.core.utils import UncompletedJobError

    while not job.done():
        time.sleep(POLL)
    try:
        told.set_result(job.result())
    except UncompletedJobError as error:
        told.set_exception(WorkerLostError(f"{error}; logs: {job.paths.stderr}"))
    except Exception as error:
        told.set_exception(error)
