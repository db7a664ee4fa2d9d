"""Rows of measurements: printed and written as they come, so that a crash loses nothing."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One measurement, or the line of an error."""

    part: str
    name: str
    value: float | None
    unit: str
    note: str
    at: float
    """Seconds since the part began."""


class OutOfTimeError(Exception):
    """A part had its time."""


class Recorder:
    """Writes the rows of one part."""

    def __init__(self, file: Path, part: str):
        self._file = file
        self._part = part
        self._began = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the part began."""
        return time.monotonic() - self._began

    def __call__(self, name: str, value: float | None, unit: str = "", note: str = "") -> None:
        """One row."""
        row = Row(self._part, name, value, unit, note, round(self.elapsed, 2))
        with self._file.open("a") as file:
            file.write(json.dumps(asdict(row)) + "\n")
        print(line(row), flush=True)

    @contextmanager
    def guard(self, name: str) -> Generator[None]:
        """An error inside becomes a row; the part goes on."""
        try:
            yield
        except (OutOfTimeError, KeyboardInterrupt):
            raise
        except Exception as error:
            self(name, None, "error", described(error))


def described(error: BaseException) -> str:
    """Kind, first line and place of an error, in one line."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    where = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames))
    text = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {text[:300]} ({where})"


def line(row: Row) -> str:
    """A row as it is shown."""
    shown = "" if row.value is None else f"{row.value:,.4g} {row.unit}"
    if row.unit == "error":
        shown = "FAILED"
    return f"[{row.part}] {row.name:<44}{shown:>16}  {row.note}"


def read(file: Path) -> list[Row]:
    """All rows that were written."""
    if not file.exists():
        return []
    return [Row(**json.loads(text)) for text in file.read_text().splitlines()]
