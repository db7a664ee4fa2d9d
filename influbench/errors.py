"""The one error that is the user's to fix: printed as one line, exit code 2."""

from __future__ import annotations

import importlib.util


class UserError(ValueError):
    """A mistake in what the user gave us.

    The message is a single line that says what was expected, what came, where, and what to do.
    Everything that is not a ``UserError`` is our own bug and ends with exit code 1.
    """


EXTRAS = {
    "loop": ("trl", "peft", "rouge_score", "sklearn"),
    "figures": ("matplotlib",),
}
"""Packages that not every user needs, by the extra that brings them."""


def require(extra: str, what: str) -> None:
    """Refuses ``what`` in one line where a package of an extra is missing, before any work.

    Raises:
        UserError: which package, and how to install it.
    """
    missing = [name for name in EXTRAS[extra] if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{what} needs {' and '.join(missing)}: pip install 'influbench[{extra}]'")
