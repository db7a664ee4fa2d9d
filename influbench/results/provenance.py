"""Where a number comes from: commit, versions, machine. No host name, user name or path."""

from __future__ import annotations

import datetime
import functools
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "influbench",
    "accelerate",
    "datasets",
    "numpy",
    "pandas",
    "peft",
    "scipy",
    "tokenizers",
    "torch",
    "transformers",
)


def provenance(now: datetime.datetime, *, device: str, threads: int) -> dict[str, Any]:
    """What a result file says about its origin.

    Args:
        now: the time of the run, with its time zone.
        device: the device in words, such as ``cpu`` or ``NVIDIA H100``.
        threads: how many threads the numerics used.
    """
    return {
        "date": now.astimezone(datetime.UTC).isoformat(timespec="seconds"),
        "command": command(sys.argv),
        **_loaded(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": device,
        "threads": threads,
        "versions": _versions(),
    }


def command(argv: Sequence[str]) -> list[str]:
    """What to type again: the program by its name alone, the user's home as ``~``."""
    home = str(Path.home())
    path = Path(argv[0] if argv else "")
    # ``python -m influbench`` leaves the path of a file that nobody can type.
    program = path.parent.name if path.name == "__main__.py" else path.name
    return [program, *(text.replace(home, "~") for text in argv[1:])]


def commit(package: Path) -> dict[str, Any]:
    """Commit and dirty flag of the checkout that holds ``package``; both None outside git.

    A package that was installed into some other project's tree must not claim that project's
    commit, so its files have to be tracked there. ``results/`` does not make a tree dirty: a sweep
    would otherwise be dirty from its second run on.
    """
    head = _git(package, "rev-parse", "HEAD")
    if head is None or _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return {"commit": None, "dirty": None}
    changed = _git(package, "status", "--porcelain", "--", ":/", ":(top,exclude)results")
    return {"commit": head, "dirty": bool(changed)}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:  # no git on this machine
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@functools.cache
def _loaded() -> dict[str, Any]:
    """Commit of the code that this process runs, which no later edit changes."""
    return commit(Path(__file__).resolve().parent)


@functools.cache
def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
