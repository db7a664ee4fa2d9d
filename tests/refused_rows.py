"""Rows in a file, and the one line that a file with a bad second row ends in."""

import json
from pathlib import Path
from typing import Any

import pytest

from influbench.data import DataConfig, load_reference
from influbench.data.examples import load_examples
from influbench.errors import UserError


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def is_refused(path: Path, says: str) -> None:
    """Whether the file's second row is refused, as candidate and as reference."""
    for load in (load_examples, lambda p: load_reference(DataConfig(reference=str(p)))):
        with pytest.raises(UserError) as error:
            load(path)
        assert str(error.value).startswith(f"{path}:2: expected")
        assert says in str(error.value)
        assert "\n" not in str(error.value)
