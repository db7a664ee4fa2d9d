"""What comes of somebody's method: checked before it is kept, and its errors say whose they are."""

from __future__ import annotations

import math
import traceback
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from influbench.errors import MethodError, UserError
from influbench.estimator.contract import Array, Scores


@contextmanager
def blamed(method: object, name: str) -> Generator[None]:
    """Errors inside that a method which is not ours makes say that it did.

    Args:
        method: it, or its class.
        name: what it is called in messages.

    Raises:
        MethodError: it failed, or would have ended this process.
    """
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        kind = method if isinstance(method, type) else type(method)
        package = kind.__module__.partition(".")[0]
        if package == "influbench" or isinstance(error, MethodError):
            raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        text = " ".join(str(error).split())[:300]
        raise MethodError(
            f"estimator '{name}' (package {package}) failed: {type(error).__name__}: {text} "
            f"({Path(last.filename).name}:{last.lineno})"
        ) from error


def as_scores(result: Scores | npt.ArrayLike, count: int) -> Scores:
    """What a scorer returned, as :class:`Scores` of float64, checked.

    Args:
        result: scores, or numbers of shape [candidate].
        count: how many candidates it was given.

    Raises:
        ValueError: not one finite number a candidate, or of what stands beside it.
    """
    told = result if isinstance(result, Scores) else Scores(value=_numbers(result, "scores"))
    value = _numbers(told.value, "scores")
    if value.shape != (count,):
        raise ValueError(
            f"expected one score for each of {count} candidates, got shape {value.shape}"
        )
    _refuse_odd(value, "score")
    stderr = None if told.stderr is None else _numbers(told.stderr, "standard errors")
    if stderr is not None:
        if stderr.shape != (count,):
            raise ValueError(
                f"expected one standard error for each of {count} candidates, got shape "
                f"{stderr.shape}"
            )
        _refuse_odd(stderr, "standard error")
        if (stderr < 0).any():
            raise ValueError(f"expected standard errors of 0 or more, got {stderr.min()}")
    items = None if told.per_reference is None else _numbers(told.per_reference, "per_reference")
    if items is not None:
        if items.ndim != 2 or len(items) != count:
            raise ValueError(
                f"expected per_reference of shape [{count}, reference], got {items.shape}"
            )
        _refuse_odd(items, "per_reference")
    return Scores(
        value=value, stderr=stderr, per_reference=items, diagnostics=_told(told.diagnostics)
    )


def _numbers(given: Any, what: str) -> Array:
    found = np.asarray(given)
    if found.dtype.kind not in "fiub":  # complex ones would lose a part, texts might be read
        raise ValueError(f"expected {what} to be real numbers, got {found.dtype}")
    return found.astype(np.float64, copy=False)


def _refuse_odd(values: Array, what: str) -> None:
    if not np.isfinite(values).all():
        bad = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ValueError(
            f"{what} number {bad} of {values.size} is {values.flat[bad]}: expected finite"
        )


def _told(diagnostics: Any) -> dict[str, float]:
    if not isinstance(diagnostics, Mapping):
        raise ValueError(f"expected diagnostics to be numbers by name, got {diagnostics!r}")
    found: dict[str, float] = {}
    for name, value in diagnostics.items():
        number = value if isinstance(value, int) else float(value)
        if not math.isfinite(number):
            raise ValueError(f"diagnostic '{name}' is {number}: expected finite")
        found[str(name)] = number
    return found
