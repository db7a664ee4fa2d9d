"""The code that somebody else's method is made of, so that an edited one is scored anew."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType

from influbench.errors import UserError
from influbench.estimator import Estimator, registry
from influbench.files import digest

OURS = "influbench"
INSTALLED = {"site-packages", "dist-packages"}
"""Folders in which modules stand side by side that have nothing to do with each other."""


def source_of(method: Estimator) -> str:
    """Digest of the files that a method which is not ours is made of; empty for ours.

    Those of its class and of the classes that it inherits from; of what they import, the files of
    the same package, or of the same folder where there is none; and those of the methods that its
    options name, as an ensemble's do. Other packages are not looked at.
    """
    found: dict[str, bytes] = {}
    for kind in _kinds(method):
        for base in kind.__mro__:
            if module := _foreign(base.__module__):
                _add(module, _beside(module), found)
    return digest(b"\0".join(found[name] for name in sorted(found))) if found else ""


def _kinds(method: Estimator) -> Iterator[type]:
    yield type(method)
    fields = dataclasses.fields(method) if dataclasses.is_dataclass(method) else ()
    for field in fields:
        value = getattr(method, field.name)
        for name in value if isinstance(value, tuple | list) else [value]:
            # One that it names it has loaded: nothing is imported for a text that looks like it.
            if isinstance(name, str) and (
                name in registry.available() or name.partition(":")[0] in sys.modules
            ):
                with suppress(UserError):
                    yield registry.load(name)


def _add(module: ModuleType, beside: Callable[[Path], bool], found: dict[str, bytes]) -> None:
    """The file of a module and those beside it that it imports, by the modules' names."""
    file = _file(module)
    if file is None or module.__name__ in found or not beside(file):
        return
    found[module.__name__] = file.read_bytes()
    for value in list(vars(module).values()):
        name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", "")
        if other := _foreign(name):
            _add(other, beside, found)


def _beside(module: ModuleType) -> Callable[[Path], bool]:
    """Whether a file belongs to the package of a module, or stands in its folder."""
    own, top = _file(module), sys.modules.get(module.__name__.partition(".")[0], module)
    package = _file(top) if hasattr(top, "__path__") else None
    if package is not None:
        return lambda file: package.parent in file.parents
    return lambda file: (
        file == own
        or (own is not None and file.parent == own.parent and own.parent.name not in INSTALLED)
    )


def _foreign(name: object) -> ModuleType | None:
    """The module of that name, unless it is ours."""
    if not isinstance(name, str) or name.partition(".")[0] == OURS:
        return None
    return sys.modules.get(name)


def _file(module: ModuleType) -> Path | None:
    try:
        name = inspect.getsourcefile(module)
    except TypeError:  # built in, or typed into a prompt
        return None
    path = Path(name).resolve() if name else None
    return path if path is not None and path.is_file() else None
