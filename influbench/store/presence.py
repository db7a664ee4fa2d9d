"""Who is in a store: processes that read and make entries, or the one that deletes some.

A sweep reads models that it made an hour ago, and ``score`` and ``evaluate`` say nowhere which they
need. So each process that uses a store shares a lock on it as long as it lives, and only a process
that has this lock alone may delete. The system gives it back however a process ends.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from weakref import WeakValueDictionary

from influbench.errors import UserError

FOLDER = ".locks"
FILE = ".present"


class Presence:
    """This process in a store, as long as somebody holds on to it."""

    def __init__(self, file: int) -> None:
        """Waits for a process that deletes, which takes seconds."""
        self._file = file
        fcntl.flock(file, fcntl.LOCK_SH)

    def __del__(self) -> None:
        """Leaves."""
        os.close(self._file)

    @contextmanager
    def alone(self) -> Generator[None]:
        """No other process is in the store meanwhile, and none comes in.

        Raises:
            UserError: there is one.
        """
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                "expected nobody at work on the store, got another process that uses it (sweep, "
                "run, score or evaluate): wait for its end or stop it, it goes on from what is "
                "kept"
            ) from None
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_SH)


_here: WeakValueDictionary[Path, Presence] = WeakValueDictionary()


def present(store: Path, makes: bool = True) -> Presence | None:
    """This process's presence in a store, from which nothing is deleted meanwhile.

    Args:
        store: its folder.
        makes: whether to leave a trace in a folder that has been no store so far.

    Returns:
        None where there is no store, or one that cannot be written, and so nothing be deleted.
    """
    found = _here.get(store)
    if found is None and (makes or (store / FOLDER).is_dir()):
        path = store / FOLDER / FILE
        try:
            path.parent.mkdir(exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError:
            return None
        found = _here[store] = Presence(file)
    return found
