"""The speeds that a plan counts on, kept in a file that ``influbench plan --calibrate`` writes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from influbench.errors import UserError
from influbench.files import from_dict, write_bytes

FILE = "calibration.json"


@dataclass(frozen=True)
class Pace:
    """What a pass of one kind takes: a part however short it is, and a part by its tokens."""

    weight: float
    """Seconds of the first part for each weight of the model, which is read or gets a gradient."""
    flops: float
    """FLOP/s of the second; a pass backward is twice one forward."""


Paces = Mapping[str, Pace]
"""By type of the matrix products."""


@dataclass(frozen=True)
class Speeds:
    """How fast a device works, in numbers that hold for models of other sizes."""

    where: str
    """The device and where the numbers are from."""
    read: Paces
    """A student's rows, packed, without gradients; a pair before its training."""
    prompt: Paces
    """What a teacher or a judge reads before it answers."""
    learn: Paces
    """The gradient of one example, or of a warm-up's batch."""
    train: Paces
    """That of a batch in the Trainer."""
    pair: Paces
    """That of a pair by the weights of an adapter; passes forward and back count one each."""
    stream: Mapping[str, float]
    """Bytes of weights a second that a decoding step reads, by their type."""
    write: Mapping[str, float]
    """FLOP/s of a decoding step beyond that, row by row."""
    update: float
    """Weights a second that an AdamW step changes, clipping included."""
    move: float
    """Weights a second that an estimator's step changes and puts back."""
    load: float
    """Bytes a second of loading weights."""
    opened: float
    """Seconds of opening a model beside that, for each token that its tokenizer knows."""
    save: float
    """Bytes a second of writing weights."""
    training: float
    """Seconds of a training that has next to nothing to learn: the Trainer and its data."""
    launch: float
    """Seconds of one layer in a pass, however small the layer."""
    together: int
    """Tokens that go through in one pass where there are more."""
    alone: bool
    """Prompts of a judge and pairs go through one by one, as on a CPU."""
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
            "plan --calibrate' (two minutes), or name a machine with --devices 8xH100"
        )
    try:
        return from_dict(Speeds, json.loads(path.read_bytes()))
    except ValueError as error:
        raise UserError(
            f"{path}: expected the speeds of this machine, got something else ({error}): measure "
            "again with 'influbench plan --calibrate'"
        ) from error


def save(path: Path, speeds: Speeds) -> None:
    """Writes the speeds."""
    write_bytes(path, json.dumps(dataclasses.asdict(speeds), indent=1).encode())
