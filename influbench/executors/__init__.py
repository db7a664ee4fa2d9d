"""Where runs and shares of stages go: this process, a pool, Slurm, Ray."""

from __future__ import annotations

from influbench.executors.executor import Executor, Outcome, mapped
from influbench.executors.making import ExecutorConfig, Kind, build

__all__ = ["Executor", "ExecutorConfig", "Kind", "Outcome", "build", "mapped"]
