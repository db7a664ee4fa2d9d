"""Ray (extra ``cluster``): one machine or an autoscaling cluster, by the same flag.

Tasks ask for GPUs and memory, and Ray places them. It moves them by pickle between processes that
trust each other; nothing of the store is a pickle. The store must be on a disk that all nodes see.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from influbench.errors import UserError, require
from influbench.executors.executor import Outcome, WorkerLostError, attempt

HERE = ""
"""The address that means: start Ray on this machine, for this command."""


class Ray:
    """Tasks of a Ray cluster."""

    def __init__(
        self,
        workers: int,
        *,
        address: str = HERE,
        gpus: float = 0,
        memory_gb: float | None = None,
    ) -> None:
        """Joins the cluster at ``address``, or starts one on this machine.

        Args:
            workers: how many tasks at a time.
            address: ``auto``, ``ray://HOST:PORT``, ``HOST:PORT``; empty = this machine.
            gpus: of a task; parts are allowed.
            memory_gb: of a task, which Ray keeps free on its node.

        Raises:
            UserError: Ray or the cluster is not there.
        """
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        require("cluster", "--executor ray")
        import ray

        self.workers = workers
        self._ray = ray
        self._ours = not ray.is_initialized()
        if self._ours:
            _join(ray, workers, address)
        self._asks: dict[str, Any] = {"num_cpus": 1, "num_gpus": gpus, "max_retries": 0}
        if memory_gb is not None:
            self._asks["memory"] = int(memory_gb * 2**30)
        self._refs: list[Any] = []

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Outcome]:
        """See ``Executor``."""
        task = self._ray.remote(_on_a_node).options(**self._asks)
        ref = task.remote(function, args, str(Path.cwd()))
        self._refs.append(ref)
        told: Future[Outcome] = Future()
        ref.future().add_done_callback(lambda done: _pass_on(done, told))
        return told

    def close(self) -> None:
        """See ``Executor``."""
        for ref in self._refs:
            self._ray.cancel(ref, force=True)
        if self._ours:
            self._ray.shutdown()


def _join(ray: Any, workers: int, address: str) -> None:
    env = {k: v for k, v in os.environ.items() if k.startswith(("INFLUBENCH_", "HF_", "OMP_"))}
    given: dict[str, Any] = {"address": address} if address else {"num_cpus": workers}
    if not address:
        given |= {"include_dashboard": False, "address": "local"}
    try:
        ray.init(log_to_driver=False, logging_level="ERROR", runtime_env={"env_vars": env}, **given)
    except (ConnectionError, RuntimeError, ValueError) as error:
        said = " ".join(str(error).split())[:300]
        raise UserError(
            f"--ray-address {address or '(this machine)'}: {said}; 'ray status' on that machine "
            "says whether a cluster runs"
        ) from error


def _on_a_node(function: Callable[..., Any], args: tuple[Any, ...], folder: str) -> Outcome:
    os.chdir(folder)  # names of files in settings mean the same as where the command was given
    return attempt(function, *args)


def _pass_on(done: Future[Outcome], told: Future[Outcome]) -> None:
    import ray

    error = done.exception()
    if error is None:
        told.set_result(done.result())
    elif isinstance(error, _lost(ray)):
        told.set_exception(WorkerLostError(str(error)))
    else:
        told.set_exception(error)


def _lost(ray: Any) -> tuple[type[Exception], ...]:
    found = ray.exceptions
    return found.WorkerCrashedError, found.NodeDiedError, found.OutOfMemoryError
