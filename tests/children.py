"""Commands in processes of their own, forked from one that has imported what takes seconds.

What is to be killed, or to work beside another one, cannot run in the process of the tests; and a
fresh one spends five seconds of a core before its first line. The standard library's fork server
has paid them once. It has no threads, and each child begins with its imports and nothing else.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import tempfile
from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "influbench.cli.main",
        "influbench.estimators.exact",
        "influbench.generation.stage",
        "influbench.judging.local",
        "influbench.loop.publish",
        "influbench.report.screen",
        "influbench.scoring.rank",
        "influbench.studies.kinds.loop",
        "influbench.training.preference_trainer",
        "influbench.training.response_trainer",
        "scipy.stats",
    ]
)


class Child:
    """A running command; it leads its own process group, as one that a shell started."""

    def __init__(self, code: str | None, arguments: tuple[str, ...], cwd: Path) -> None:
        self._said = tempfile.NamedTemporaryFile("r", encoding="utf-8")  # noqa: SIM115
        self._process = FORKS.Process(
            target=_run, args=(code, arguments, cwd, self._said.name, dict(os.environ))
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """The exit code, -N where signal N ended it; None while it runs."""
        return self._process.exitcode

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout: float = 600) -> int:
        """Waits for its end; the exit code."""
        self._process.join(timeout)
        code = self.poll()
        assert code is not None, f"still runs after {timeout} s"
        return code

    def said(self) -> str:
        """What stands on its standard error so far."""
        self._said.seek(0)
        return self._said.read()


def command(*arguments: str, cwd: Path) -> Child:
    """``influbench ARGUMENTS`` in ``cwd``."""
    return Child(None, arguments, cwd)


def python(code: str, *arguments: str, cwd: Path) -> Child:
    """``python -c CODE ARGUMENTS`` in ``cwd``."""
    return Child(code, arguments, cwd)


def _run(
    code: str | None, arguments: tuple[str, ...], cwd: Path, said: str, told: dict[str, str]
) -> None:
    os.setsid()
    gc.freeze()  # what was imported before the fork stays: no search for garbage goes through it
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run behind `&`
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(told)
    for number, name in ((1, os.devnull), (2, said)):
        opened = os.open(name, os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    if code is None:
        from influbench.cli.main import main

        sys.argv = ["influbench", *arguments]
        main()
    else:
        sys.argv = ["-c", *arguments]
        sys.path.insert(0, "")
        exec(code, {"__name__": "__main__"})
