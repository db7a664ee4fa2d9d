"""Errors that end as one line: the user's to fix (exit code 2), or a plug-in's (exit code 1)."""

from __future__ import annotations

import errno
import importlib.util


class UserError(ValueError):
    """A mistake in what the user gave us.

    The message is a single line that says what was expected, what came, where, and what to do.
    Everything that is neither of these two is our own bug and ends with exit code 1.
    """


class MethodError(RuntimeError):
    """What somebody else's estimator raised, named: neither the user's mistake nor our bug.

    The message is a single line; exit code 1.
    """


def of_the_machine(error: BaseException) -> str:
    """The line about a full disk or device or a name that no file can have; else empty.

    None is ours to mend, wherever it was met: only names that a user gave can be so long.
    """
    if type(error).__module__ == "torch" and "out of memory" in str(error):
        return (
            f"the device's memory is full ({' '.join(str(error).split())[:120]}): run fewer "
            "at once (--jobs), end what else uses it, or lower the batch sizes, and run the same "
            "command again: what was finished before is kept"
        )
    if not isinstance(error, OSError):
        return ""
    name = str(error.filename or "a file")
    if error.errno == errno.ENAMETOOLONG:
        return f"expected a path, got a name that is too long for this system: {name[:60]}…"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"the disk is full: could not write {name}; make room and run the same command again: "
            "what was finished before is kept"
        )
    if error.errno in UNUSABLE and error.filename:
        return (
            f"expected to read or write {name}, got: {error.strerror}; put right what lies there "
            "(a folder in place of a file, or the reverse; rights) and run the same command again: "
            "what was finished before is kept"
        )
    return ""


UNUSABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.ELOOP)
"""What comes of files that somebody else put into our folders, or closed to us."""

EXTRAS = {
    "loop": ("accelerate", "peft", "rouge_score", "sklearn"),
    "figures": ("matplotlib",),
    "report": ("plotly",),
    "cluster": ("ray",),
    "slurm": ("submitit",),
    "trak": ("trak",),
    "judge": ("openai",),
    "judge-server": ("xllamacpp",),
    "harness": ("lm_eval",),
    "retrieval": ("bm25s",),
    "words": ("textblob",),
    "embedded": ("gguf",),
}
"""What is imported of the packages that not every user needs, by the extra that brings them."""


def missing_of(extra: str) -> list[str]:
    """The modules of an extra that are not installed."""
    return [name for name in EXTRAS[extra] if importlib.util.find_spec(name) is None]


def require(extra: str, what: str) -> None:
    """Refuses ``what`` in one line where a package of an extra is missing, before any work.

    Raises:
        UserError: which package, and how to install it.
    """
    if missing := missing_of(extra):
        raise UserError(f"{what} needs {' and '.join(missing)}: pip install 'influbench[{extra}]'")
