"""The command line as a user types it, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path


def influbench(
    *arguments: str, cwd: Path, path: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs ``influbench ARGUMENTS`` in ``cwd``, with packages of the folder ``path`` beside ours."""
    return python("-m", "influbench", *arguments, cwd=cwd, path=path)


def python(
    *arguments: str, cwd: Path, path: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs Python in ``cwd``."""
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
