"""Finished parts of a stage that is still running: one file a chunk, renamed into place."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from influbench.files import digest, from_dict, to_line, write_bytes
from influbench.store.disk import ExplainedWhenFull

R = TypeVar("R")


@dataclass(frozen=True)
class Chunks(Generic[R]):
    """The chunks of one list of items.

    The name of a chunk's file has the digest of its items, so one that was made of other items, or
    with another chunk size, is never taken for it. Its first line has the digest of its records.
    """

    folder: Path
    kind: type[R]

    def read(self, number: int, items: Sequence[object]) -> list[R] | None:
        """The records that were made of ``items``; None where there are none, or damaged ones."""
        path = self._path(number, items)
        if not path.exists():
            return None
        head, _, body = path.read_bytes().partition(b"\n")
        if head.decode(errors="replace") != self._head(body):
            sys.stderr.write(f"{path}: damaged; this chunk is made again\n")
            path.unlink()
            return None
        return self._records(body)

    def write(self, number: int, items: Sequence[object], records: Sequence[R]) -> list[R]:
        """Keeps the records made of ``items``; gives them back as a later ``read`` would."""
        body = "".join(to_line(r) + "\n" for r in records).encode()
        path = self._path(number, items)
        with ExplainedWhenFull(path, needed=len(body)):
            write_bytes(path, self._head(body).encode() + b"\n" + body)
        return self._records(body)

    def _path(self, number: int, items: Sequence[object]) -> Path:
        told = [json.dumps(i, default=_plain, ensure_ascii=False) for i in items]
        return self.folder / f"{number:06d}-{digest(json.dumps(told))[:16]}.jsonl"

    def _head(self, body: bytes) -> str:
        return json.dumps({"kind": self.kind.__name__, "digest": digest(body)})

    def _records(self, body: bytes) -> list[R]:
        # Not splitlines: text may hold U+2028 and its like, which JSON does not escape.
        return [from_dict(self.kind, json.loads(line)) for line in body.split(b"\n")[:-1]]


def _plain(item: Any) -> dict[str, Any]:
    return dataclasses.asdict(item)
