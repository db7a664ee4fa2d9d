"""The file contract with toolkits that run in an environment of their own."""

from __future__ import annotations

from influbench.foreign import environments
from influbench.foreign.toolkit import (
    FORMAT,
    GRACE_SECONDS,
    SIGN,
    WORKERS,
    Process,
    Worker,
    read_scores,
    scorer,
    worker,
    write_folder,
    write_rows,
)

__all__ = [
    "FORMAT",
    "GRACE_SECONDS",
    "SIGN",
    "WORKERS",
    "Process",
    "Worker",
    "environments",
    "read_scores",
    "scorer",
    "worker",
    "write_folder",
    "write_rows",
]
