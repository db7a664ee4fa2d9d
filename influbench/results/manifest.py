"""``results/<study>/study.json``: which runs a study has, and the settings that it varies.

A sweep writes it. It tells the runs of today's grid from files that an earlier grid left, and it
knows the study's axes before all its runs are there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from influbench.errors import UserError
from influbench.files import write_bytes
from influbench.results.axes import axes_of, leaves
from influbench.results.outputs import claim
from influbench.results.reading import OddError, Told, load, typed
from influbench.results.result_file import MANIFEST, is_result

FORMAT = 2


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a study consists of."""

    runs: tuple[str, ...]
    """Run ids, in the order of the grid."""
    axes: tuple[str, ...]
    """Dotted names of the settings that vary beside arm and seed."""


class _File(Told):
    """The layout, for :func:`read_manifest`."""

    format: Literal[2]
    study: str
    axes: list[str]
    runs: dict[str, dict[str, Any]]


def write_manifest(root: Path, study: str, configs: Mapping[str, Mapping[str, Any]]) -> Path:
    """Writes ``root/study/study.json``, whole or not at all, and returns its path.

    Args:
        root: the folder of all results.
        study: its name.
        configs: the resolved configuration of every run of the grid, by run id.

    Raises:
        UserError: there is a file of that name that influbench did not write.
    """
    axes = axes_of(configs)
    runs = {
        run: {axis: found.get(axis) for axis in axes}
        for run, found in ((run, leaves(config)) for run, config in configs.items())
    }
    text = json.dumps(
        {"format": FORMAT, "study": study, "axes": axes, "runs": runs}, indent=1, ensure_ascii=False
    )
    path = root / study / MANIFEST
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(claim(path, is_result, option="results in"), (text + "\n").encode())
    return path


def read_manifest(folder: Path) -> Manifest | None:
    """What the study in ``folder`` consists of; None where nothing says so.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        told = typed(_File, load(path)[0])
    except OddError as error:
        raise UserError(
            f"{path} is damaged ({error}): sweep the study again, or delete the file to read all "
            "runs in the folder"
        ) from error
    return Manifest(runs=tuple(told.runs), axes=tuple(told.axes))
