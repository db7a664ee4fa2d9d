"""The speeds that a plan counts on, kept in a file that ``influbench plan --calibrate`` writes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from influbench.errors import UserError
from influbench.files import write_bytes

FILE = "calibration.json"


@dataclass(frozen=True)
class Speeds:
    """How fast a device works, in numbers that hold for models of other sizes."""

    where: str
    """The device and where the numbers are from."""
    read: Mapping[str, float]
    """FLOP/s of passes without gradients, by type of the matrix products."""
    learn: Mapping[str, float]
    """FLOP/s of passes forward and backward."""
    stream: Mapping[str, float]
    """Bytes of weights a second that a decoding step reads, by their type."""
    write: Mapping[str, float]
    """FLOP/s of a decoding step beyond that, row by row."""
    update: float
    """Weights a second that an AdamW step changes."""
    load: float
    """Bytes a second of loading weights."""
    save: float
    """Bytes a second of writing them."""
    start: float
    """Seconds of one pass, however short."""
    memory: float
    """Bytes of the device."""


def read(path: Path) -> Speeds:
    """The speeds measured on this machine.

    Raises:
        UserError: none were, or the file holds something else.
    """
    if not path.is_file():
        raise UserError(
            f"expected the speeds of this machine in {path}: measure them once with 'influbench "
            "plan --calibrate' (a minute), or name a machine with --devices 8xH100"
        )
    try:
        return Speeds(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{path}: expected the speeds of this machine, got something else ({error}): measure "
            "again with 'influbench plan --calibrate'"
        ) from error


def save(path: Path, speeds: Speeds) -> None:
    """Writes the speeds."""
    write_bytes(path, json.dumps(dataclasses.asdict(speeds), indent=1).encode())
