"""The archive of judgements: an append-only JSONL file, so that nothing is ever bought twice.

Any number of threads and processes may append, whole lines under a file lock. A line torn by a
crash is ignored, and the next append starts on a fresh line.
"""

from __future__ import annotations

import json
import os
import threading
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path

from filelock import FileLock
from pydantic import TypeAdapter

from influbench.files import digest, to_line
from influbench.judging.bill import Bill
from influbench.judging.protocol import Judgement, Request, Usage

_JUDGEMENT = TypeAdapter(Judgement)


def request_key(judge: str, request: Request) -> str:
    """What makes two requests the same judgement; sampled replies belong to their request's id."""
    sampled = request.id if request.temperature > 0 else ""
    return digest(
        json.dumps(
            [
                judge,
                request.messages,
                request.choices,
                request.max_tokens,
                request.temperature,
                sampled,
            ]
        )
    )


def judgement(
    judge: str,
    request: Request,
    *,
    text: str,
    top: dict[str, float] | None = None,
    probabilities: tuple[float, ...] | None = None,
    tokens: tuple[int, int] = (0, 0),
    money: float = 0.0,
    answered_by: str = "",
) -> Judgement:
    """The record of a reply; ``tokens`` are those of the prompt and of the reply."""
    return Judgement(
        key=request_key(judge, request),
        judge=judge,
        prompt_hash=digest(json.dumps(request.messages)),
        answer_hash=digest(json.dumps(request.answers)),
        choices=request.choices,
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        text=text,
        top=top,
        probabilities=probabilities,
        prompt_tokens=tokens[0],
        completion_tokens=tokens[1],
        money=money,
        answered_by=answered_by,
    )


IN_VAIN = "spent:"
"""How the keys of what was paid for no judgement begin: no request has such a one."""


def spent_in_vain(judge: str, bill: Bill) -> Judgement:
    """The record of an attempt that was paid for and gave no judgement."""
    return Judgement(
        key=f"{IN_VAIN}{uuid.uuid4().hex}",
        judge=judge,
        prompt_hash="",
        answer_hash="",
        choices=(),
        max_tokens=0,
        temperature=0.0,
        text="",
        top=None,
        probabilities=None,
        prompt_tokens=bill.tokens[0],
        completion_tokens=bill.tokens[1],
        money=bill.money,
    )


class Archive:
    """Judgements by key, in a file or (``path`` None) in memory only."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.damaged = 0
        """Lines that hold no judgement: torn by a crash, or with a field of a wrong type."""
        self._found: dict[str, Judgement] = {}
        self._read = 0
        self._lock = threading.Lock()
        self.refresh()

    def __len__(self) -> int:
        return len(self._found)

    def refresh(self) -> None:
        """Reads what other processes appended since."""
        if self.path is None or not self.path.is_file():
            return
        with self._lock, self.path.open("rb") as file:
            file.seek(self._read)
            data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._read += len(whole)
            for line in whole.splitlines():
                self._take(line)

    def _take(self, line: bytes) -> None:
        if not line.strip():
            return
        try:
            found = _JUDGEMENT.validate_json(line, strict=True)
        except ValueError:
            self.damaged += 1
            return
        if found.probabilities is not None and len(found.probabilities) != len(found.choices):
            self.damaged += 1
            return
        self._found.setdefault(found.key, found)

    def all(self) -> list[Judgement]:
        """Every judgement, oldest first."""
        return list(self._found.values())

    def get(self, key: str) -> Judgement | None:
        """The judgement of a request, if it was ever bought."""
        return self._found.get(key)

    def judges(self, request: Request) -> set[str]:
        """The names of the judges whose reply to a request is here."""
        names = {item.judge for item in self._found.values()}
        return {name for name in names if request_key(name, request) in self._found}

    def add(self, judgements: Sequence[Judgement]) -> None:
        """Appends judgements; they are on disk when this returns."""
        with self._lock:
            for item in judgements:
                self._found.setdefault(item.key, item)
            if self.path is None or not judgements:
                return
            data = "".join(to_line(item) + "\n" for item in judgements).encode()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self.path}.lock"), self.path.open("a+b") as file:
                if file.seek(0, os.SEEK_END):
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":
                        data = b"\n" + data
                file.write(data)
                file.flush()
                os.fsync(file.fileno())

    def bought_by(self, buyer: str) -> Usage:
        """What a buyer has paid for so far, over all its attempts."""
        return total(item for item in self._found.values() if item.buyer == buyer)


def total(judgements: Iterable[Judgement]) -> Usage:
    """What these judgements cost."""
    usage = Usage()
    for item in judgements:
        usage += Usage(
            calls=1,
            prompt_tokens=item.prompt_tokens,
            completion_tokens=item.completion_tokens,
            money=item.money,
        )
    return usage
