"""Read and write ``results/``: the only door for figures, tables and reports."""

from __future__ import annotations

from influbench.results.manifest import write_manifest
from influbench.results.publishing import publish
from influbench.results.result_file import RunResult, write
from influbench.results.rows import BASE, BASELINE, CEILING, blank_row, cost_rows, row_of
from influbench.results.study import Study, load_study

__all__ = [
    "BASE",
    "BASELINE",
    "CEILING",
    "RunResult",
    "Study",
    "blank_row",
    "cost_rows",
    "load_study",
    "publish",
    "row_of",
    "write",
    "write_manifest",
]
