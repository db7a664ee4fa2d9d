"""An executor by its name, with what a task asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from influbench.config import Config
from influbench.executors.executor import Executor
from influbench.executors.local import Local
from influbench.executors.pool import Pool
from influbench.executors.ray_cluster import HERE, Ray
from influbench.executors.slurm import Slurm

Kind = Literal["local", "pool", "slurm", "ray"]


class ExecutorConfig(Config):
    """Where tasks run; none of it changes a record."""

    kind: Kind = "local"
    workers: int = Field(default=1, gt=0, le=4096, description="tasks at a time")
    ray_address: str = Field(default=HERE, description="'auto', HOST:PORT; empty = this machine")
    gpus: float = Field(default=0, ge=0, description="of a task, on slurm and ray")
    memory_gb: float | None = Field(default=None, gt=0, description="of a task, on slurm and ray")
    hours: float = Field(default=24.0, gt=0, description="a Slurm job's limit")
    slurm_cluster: Literal["slurm", "local"] = Field(
        default="slurm", description="local: submitit's processes on this machine"
    )
    slurm: dict[str, Any] = Field(default_factory=dict, description="submitit's other parameters")


def build(cfg: ExecutorConfig, folder: Path) -> Executor:
    """The executor of that kind.

    Args:
        cfg: which, and what a task asks for.
        folder: where it may keep logs; all nodes see it.

    Raises:
        UserError: what it needs is not installed, or its cluster is not there.
    """
    if cfg.kind == "slurm":
        return Slurm(
            cfg.workers,
            folder,
            cluster=cfg.slurm_cluster,
            gpus=int(cfg.gpus),
            memory_gb=cfg.memory_gb,
            hours=cfg.hours,
            more=cfg.slurm,
        )
    if cfg.kind == "ray":
        return Ray(cfg.workers, address=cfg.ray_address, gpus=cfg.gpus, memory_gb=cfg.memory_gb)
    return Pool(cfg.workers) if cfg.kind == "pool" else Local()
