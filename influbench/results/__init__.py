"""Read and write ``results/``: the only door for figures, tables and reports."""

from __future__ import annotations

from influbench.results.result_file import RunResult, write
from influbench.results.study import BASELINE, CEILING, Study, cost_rows, load_study, with_interval

__all__ = [
    "BASELINE",
    "CEILING",
    "RunResult",
    "Study",
    "cost_rows",
    "load_study",
    "with_interval",
    "write",
]
