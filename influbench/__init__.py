"""influbench: compare estimators of training-data influence by the students they make and cost.

The public names are loaded when they are first used, so that ``import influbench`` is instant.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from influbench.data.records import Example
    from influbench.estimator import Context, Estimator, Facts, Scores, Student
    from influbench.report.comparison import compare
    from influbench.results import load_study
    from influbench.scoring.rank import score
    from influbench.statistics.estimate import Estimate
    from influbench.studies.grid import run

    __version__: str

# Some libraries report their use to their makers; to be set before huggingface_hub is imported.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

_HOMES = {
    "Context": "estimator",
    "Estimate": "statistics.estimate",
    "Estimator": "estimator",
    "Example": "data.records",
    "Facts": "estimator",
    "Scores": "estimator",
    "Student": "estimator",
    "compare": "report.comparison",
    "load_study": "results",
    "run": "studies.grid",
    "score": "scoring.rank",
}

__all__ = [
    "Context",
    "Estimate",
    "Estimator",
    "Example",
    "Facts",
    "Scores",
    "Student",
    "__version__",
    "compare",
    "load_study",
    "run",
    "score",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("influbench")
    if name not in _HOMES:
        raise AttributeError(f"module 'influbench' has no attribute '{name}'")
    return getattr(importlib.import_module(f"influbench.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__]
