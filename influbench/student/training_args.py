"""The gradient clip in a Trainer's ``training_args.bin``, read without running what is in it.

The file is a pickle of an object of some class, which may call anything when it is loaded, and
whose package need not be installed. Here every class and function that it names is a blank that
takes what it is given: what comes out is numbers and texts.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from pickle import Unpickler, UnpicklingError
from typing import Any

from influbench.errors import UserError

LARGEST = 1 << 22
"""Bytes; a Trainer's file has some five thousand."""
NAME = "training_args.bin"


class _Blank:
    """Stands for an object of any class, and for what any function returns."""

    def __init__(self, *_: Any, **__: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        fields = state[0] if isinstance(state, tuple) and state else state
        if isinstance(fields, dict):
            self.__dict__.update({str(key): value for key, value in fields.items()})

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        """Of blanks that stand for lists."""

    def extend(self, values: Any) -> None:
        """Of blanks that stand for lists."""


class _Reader(Unpickler):
    """Knows no class and no function."""

    def find_class(self, *_: str) -> Any:
        return type("Blank", (_Blank,), {})

    def persistent_load(self, *_: Any) -> Any:
        return None


def clip_norm(folder: Path) -> float | None:
    """``max_grad_norm`` of the training, 0 = no clipping; None where no such file is there.

    Raises:
        UserError: the file is there and says nothing that can be read.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"it has more than {LARGEST} bytes")
        with zipfile.ZipFile(path) as file:
            (inner,) = [n for n in file.namelist() if n.rpartition("/")[2] == "data.pkl"]
            if file.getinfo(inner).file_size > LARGEST:
                raise ValueError(f"it unpacks to more than {LARGEST} bytes")
            held = _Reader(io.BytesIO(file.read(inner))).load()
        value = vars(held)["max_grad_norm"]
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise ValueError(f"max_grad_norm is a {type(value).__name__}")
    except (
        *(ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, OSError),
        *(RecursionError, TypeError, UnpicklingError, ValueError, zipfile.BadZipFile),
    ) as error:
        raise UserError(
            f"{path}: expected a Trainer's arguments with max_grad_norm "
            f"({type(error).__name__}: {error}): say the clip of the training's gradients, "
            "--set student.clip_norm=1.0 (0 = no clipping)"
        ) from error
    return float(value or 0.0)
