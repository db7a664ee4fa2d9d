"""The command line as a user types it, in this process or in one of its own."""

import contextlib
import importlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from influbench.cli import main as command_line

Done = subprocess.CompletedProcess[str]


def influbench(*arguments: str, cwd: Path, path: Path | None = None) -> Done:
    """Runs ``influbench ARGUMENTS`` in ``cwd``, with the packages in the folder ``path``.

    In this process: starting another one that imports torch takes longer than what it does.
    """
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.chdir(cwd)
        patch.setenv("COLUMNS", "200")
        patch.setattr(sys, "argv", ["influbench", *arguments])
        if path is not None:
            patch.syspath_prepend(str(path))
        importlib.invalidate_caches()
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        with pytest.raises(SystemExit) as stop:
            command_line.main()
    return Done([*arguments], int(stop.value.code or 0), out.getvalue(), err.getvalue())


def python(*arguments: str, cwd: Path, path: Path | None = None) -> Done:
    """Runs Python in ``cwd``, in a process of its own."""
    more = {"COLUMNS": "200"} | ({} if path is None else {"PYTHONPATH": str(path)})
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, **more},
        check=False,
    )


def pip_install(package: Path, target: Path) -> None:
    """Builds and installs a package into ``target``, without network and dependencies."""
    done = python(
        "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation",
        "--disable-pip-version-check", "--no-warn-script-location",
        "--target", str(target), str(package), cwd=package,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
