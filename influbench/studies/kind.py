"""What a kind of study is, and the kinds that there are: the files of ``influbench.studies.kinds``.

A new kind is one file there, named as study files name it, with a ``KIND`` in it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from influbench.config import Config
from influbench.errors import UserError
from influbench.results import RunResult
from influbench.store.session import Session
from influbench.studies import kinds

LOOP = "loop"
"""The kind of a study file that names none."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One way of putting a question to estimators."""

    settings: type[Config]
    """Of one run; what a study file sets and varies. Has ``seed``."""
    check: Callable[[Any], object]
    """Refuses settings that cannot work, before the first run of the study starts."""
    run: Callable[[Any, Session, str, str], RunResult]
    """``run(settings, session, study, run_id)``: one run and its rows."""
    metrics: tuple[str, ...] = ()
    """What is shown of the study; empty = the tables of the loop."""


def names() -> list[str]:
    """The kinds that there are; none is imported."""
    return sorted(module.name for module in pkgutil.iter_modules(kinds.__path__))


def load(name: str) -> Kind:
    """The kind of that name.

    Raises:
        UserError: there is none.
    """
    if name not in names():
        raise UserError(f"kind '{name}': expected one of {', '.join(names())}")
    return importlib.import_module(f"{kinds.__name__}.{name}").KIND
