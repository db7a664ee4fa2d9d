"""Read and write ``results/``: the only door for figures, tables and reports."""

from __future__ import annotations

from influbench.results.manifest import write_manifest
from influbench.results.result_file import RunResult, write
from influbench.results.rows import BASE, BASELINE, CEILING, cost_rows, row_of
from influbench.results.study import Study, load_study

__all__ = [
    "BASE",
    "BASELINE",
    "CEILING",
    "RunResult",
    "Study",
    "cost_rows",
    "load_study",
    "row_of",
    "write",
    "write_manifest",
]
