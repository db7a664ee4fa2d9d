"""Files that a command writes where the user says: never over an input or over foreign work.

Checked before the computation, so that nothing is computed for a place that cannot be written, and
again when the file is written.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from influbench.errors import UserError

Ours = Callable[[Path], bool]
"""Whether influbench wrote the file that is there."""


def claim(path: Path, ours: Ours, *, inputs: Iterable[object] = (), option: str = "--out") -> Path:
    """The file that ``path`` names, if it may be written; links are followed.

    Args:
        path: where the user wants a file.
        ours: told of a file that is there, whether it may be replaced; an empty one always may.
        inputs: what the command reads; those that are no local files are passed over.
        option: how the user said it, for the message.

    Raises:
        UserError: no such folder or none to write in, something that is no file, an input, or a
            file that influbench did not write.
    """
    try:
        target = path.resolve()
        there = target.exists()
    except (OSError, RuntimeError) as error:  # a loop of links, a name too long
        raise UserError(f"{option} {path}: {error}; give another name") from error
    if not target.parent.is_dir():
        raise UserError(f"{option} {path}: there is no folder {target.parent}; make it first")
    if not os.access(target.parent, os.W_OK):
        raise UserError(f"{option} {path}: the folder {target.parent} cannot be written in")
    named = target if path.is_symlink() else path
    if not there:
        return named
    if not target.is_file():
        kind = "a folder" if target.is_dir() else "a device or pipe"
        raise UserError(f"{option} {path}: expected the name of a file, got {kind}")
    for given in inputs:
        if _same(target, given):
            raise UserError(
                f"{option} {path}: this is an input of the command, which would be lost; give "
                "another name"
            )
    if target.stat().st_size and not ours(target):
        raise UserError(
            f"{option} {path}: there is a file that influbench did not write; move it, or give "
            "another name"
        )
    return named


def _same(target: Path, given: object) -> bool:
    try:
        return Path(str(given)).exists() and target.samefile(Path(str(given)))
    except OSError:  # no path: a hub name, a list of examples
        return False


def begins(path: Path, text: str) -> bool:
    """Whether a file begins with these words."""
    with path.open("rb") as file:
        return file.read(len(text.encode())) == text.encode()
