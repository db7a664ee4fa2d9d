"""A server in a process of its own that we start, wait for and end, with all that it starts.

``workers/keeper.py`` stands between: it ends the server's whole process group when we close it, and
when this process is gone in whatever way.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
import urllib.request
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from influbench.errors import UserError
from influbench.foreign.toolkit import WORKERS

KEEPER = WORKERS / "keeper.py"
HOST = "127.0.0.1"
LOOK_SECONDS = 0.2
"""Between two looks whether it is ready."""
END_SECONDS = 10.0
"""The server may take to end before it is killed."""
TRIES = 3
"""Ports: another process may take one between the choice and the server's start."""
TAKEN = "address already in use"


@dataclass(frozen=True)
class Wanted:
    """What is to be served, and how."""

    name: str
    """The server's, for messages."""
    model: str
    """What ``/v1/models`` lists once it is ready; no other server on this machine may list it."""
    command: Callable[[int], Sequence[str]]
    """The command line, given a port of ``127.0.0.1``."""
    log: Path
    """What it prints; earlier attempts' stays."""
    environment: Mapping[str, str]
    seconds: float
    """It may take to be ready."""


class Served:
    """A server that is ready; ends with the block, with this object, or with this process."""

    def __init__(self, wanted: Wanted) -> None:
        """Starts it and waits until it is ready.

        Raises:
            UserError: it ended, or was not ready in time; with the end of what it printed.
        """
        self._wanted = wanted
        for attempt in range(TRIES):
            self._start()
            try:
                self._wait()
                return
            except BaseException as error:
                self.close()
                taken = isinstance(error, UserError) and TAKEN in self._said().lower()
                if not taken or attempt == TRIES - 1:
                    raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends it; an error of ours that its death caused says so.

        Raises:
            UserError: it had ended by itself.
        """
        why = self._stopped() if isinstance(error, UserError) else None
        self.close()
        if why is not None:
            raise why from error

    @property
    def model(self) -> str:
        """What it calls what it serves."""
        return self._wanted.model

    @property
    def url(self) -> str:
        """Where it answers, with ``/v1``."""
        return f"http://{HOST}:{self._port}/v1"

    def close(self) -> None:
        """Ends it and all that it started; returns when they are gone."""
        self._finalizer()

    def _start(self) -> None:
        self._port = _free_port()
        self._wanted.log.parent.mkdir(parents=True, exist_ok=True)
        log = self._wanted.log.open("ab")
        self._began = log.tell()
        # Not in our session: a Ctrl-C is ours to act on.
        self._keeper = subprocess.Popen(
            [
                sys.executable,
                "-I",
                str(KEEPER),
                str(END_SECONDS),
                *self._wanted.command(self._port),
            ],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=dict(self._wanted.environment),
            cwd=self._wanted.log.parent,
            start_new_session=True,
        )
        self._finalizer = weakref.finalize(self, _end, self._keeper, log)

    def _wait(self) -> None:
        until = time.monotonic() + self._wanted.seconds
        while not self._ready():
            if why := self._stopped():
                raise why
            if time.monotonic() > until:
                raise UserError(
                    f"{self._wanted.name}: expected it to be ready within "
                    f"{self._wanted.seconds:g} s, and it is not; its output is in "
                    f"{self._wanted.log}"
                )
            time.sleep(LOOK_SECONDS)

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/models", timeout=5) as response:
                listed = json.loads(response.read())["data"]
            return any(model["id"] == self._wanted.model for model in listed)
        except (OSError, ValueError, KeyError, TypeError):  # not listening yet, or somebody else
            return False

    def _stopped(self) -> UserError | None:
        code = self._keeper.poll()
        if code is None:
            return None
        return UserError(
            f"{self._wanted.name} stopped by itself (exit code {code}): {self._reason()}; its "
            f"whole output is in {self._wanted.log}"
        )

    def _said(self) -> str:
        with self._wanted.log.open("rb") as file:
            file.seek(self._began)
            return file.read().decode(errors="replace")

    def _reason(self) -> str:
        """The last line that names an error, else the last one."""
        lines = [line.strip() for line in self._said().splitlines() if line.strip()]
        errors = [line for line in lines if "Error" in line]
        return (errors or lines or ["it printed nothing"])[-1][-300:]


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        return int(taken.getsockname()[1])


def _end(keeper: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    assert keeper.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        keeper.stdin.close()
    try:
        keeper.wait(2 * END_SECONDS)
    except subprocess.TimeoutExpired:
        keeper.kill()
        keeper.wait()
    log.close()
