"""Says in one line that the disk is full or cannot be written, whichever library found out."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from influbench.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT)
CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST)
"""What comes of a read-only disk, of missing rights, and of a file where a folder should be."""
NO_ROOM = 1 << 20
"""Bytes; with less than this left, a writer that gives no reason has failed for want of room."""


@dataclass(frozen=True)
class ExplainedWhenFull:
    """Turns a write that fails for want of room or rights into one line; other errors just pass.

    Raises:
        UserError: on leaving, if the disk is full, or ``path`` cannot be written.
    """

    path: Path
    """What is being written, where the error itself does not say."""
    needed: int | None = None
    """Its size in bytes, where known."""

    def __enter__(self) -> None:
        """Does nothing."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Looks at what went wrong, if anything did."""
        if isinstance(error, OSError) and error.errno in CLOSED and self._inside(error.filename):
            raise UserError(
                f"cannot write {error.filename}: {error.strerror}; name a folder that can be "
                "written (--store)"
            ) from error
        found = None if isinstance(error, UserError) else self._where_full(error)
        if found is None:
            return
        size = "" if self.needed is None else f"{self.needed:,} bytes needed, "
        raise UserError(
            f"the disk is full: could not write {found} ({size}{self._free():,} bytes free); make "
            "room and run the same command again: what was finished before is kept"
        ) from error

    def _inside(self, name: object) -> bool:
        """Whether a file is what is being written, in it, or one of its parents."""
        path = Path(str(name))
        return path.is_relative_to(self.path.parent) or self.path.is_relative_to(path)

    def _where_full(self, error: BaseException | None) -> str | None:
        """The file that had no room, or None where that is not what went wrong.

        safetensors and torch write from their own code and raise errors of their own: the first
        quotes the system's words, the second names its own source file (``inline_container``).
        """
        words = os.strerror(errno.ENOSPC)
        while error is not None:
            if isinstance(error, OSError) and error.errno in FULL:
                return str(error.filename or self.path)
            unsaid = isinstance(error, RuntimeError) and "inline_container" in str(error)
            if words in str(error) or (unsaid and self._free() < NO_ROOM):
                return str(self.path)
            error = error.__cause__ or error.__context__
        return None

    def _free(self) -> int:
        there = next(p for p in (self.path, *self.path.parents) if p.exists())
        return shutil.disk_usage(there).free
