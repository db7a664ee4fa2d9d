"""Keeps a server: ends it, and all that it started, when whoever wanted it is gone.

    python keeper.py SECONDS COMMAND...

Standard input is a pipe that the process which wants the server holds open and writes nothing to.
However that process ends, by a SIGKILL too, the pipe closes. What has not ended within so many
seconds of a SIGTERM is killed. Runs on the standard library alone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time


def main() -> int:
    """Starts the server and waits for it, or for the end of the pipe; the server's exit code."""
    # A session of its own is a process group of its own, whose members end together.
    grace, command = float(sys.argv[1]), sys.argv[2:]
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    signal.signal(signal.SIGTERM, lambda *_: _end(server.pid, grace))
    threading.Thread(target=_until_unwanted, args=(server.pid, grace), daemon=True).start()
    code = server.wait()
    _tell(server.pid, signal.SIGKILL)  # what it left behind
    return code


def _until_unwanted(group: int, grace: float) -> None:
    while os.read(0, 1024):
        pass
    _end(group, grace)


def _end(group: int, grace: float) -> None:
    _tell(group, signal.SIGTERM)
    threading.Thread(target=_kill_late, args=(group, grace), daemon=True).start()


def _kill_late(group: int, grace: float) -> None:
    time.sleep(grace)
    _tell(group, signal.SIGKILL)


def _tell(group: int, what: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, what)


if __name__ == "__main__":
    ended = main()
    sys.exit(ended if ended >= 0 else 128 - ended)
