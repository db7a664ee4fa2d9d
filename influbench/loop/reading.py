"""Runs of the loop from YAML: presets by name, files by path, ``--set`` on top.

A run is a YAML file with an optional ``base:`` (a preset or a file) and what differs from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from influbench.config import Tree, assign, checked, merged, override, parse_yaml, read_yaml
from influbench.errors import UserError
from influbench.loop.settings import RunConfig

PRESETS = files("influbench.loop") / "presets"
OF_A_STUDY = {"question", "kind", "grid", "set"}
"""Parts of a study file that no run has."""


def names() -> list[str]:
    """The presets that come with the package."""
    return sorted(
        p.name.removesuffix(".yaml") for p in PRESETS.iterdir() if p.name.endswith(".yaml")
    )


def load_run(
    preset_or_file: str,
    overrides: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    last: Mapping[str, Any] | None = None,
) -> RunConfig:
    """The configuration of one run.

    Args:
        preset_or_file: a preset's name or a YAML file.
        overrides: ``key.subkey=value``, values in YAML, applied in order.
        settings: the same by dotted name, applied before them.
        last: the same, applied after them.

    Raises:
        UserError: no such preset or file, or a setting that does not exist or has a wrong type.
    """
    tree = read(preset_or_file)
    for key, value in (settings or {}).items():
        assign(tree, key, value, f"setting {key}")
    for text in overrides:
        override(tree, text)
    for key, value in (last or {}).items():
        assign(tree, key, value, f"option {key}")
    return build(
        tree, f"preset '{preset_or_file}'" if preset_or_file in names() else preset_or_file
    )


def build(tree: Tree, where: str) -> RunConfig:
    """A checked configuration of a run; see :func:`checked`."""
    return checked(RunConfig, tree, where)


def read(name: str, beside: Path | None = None, over: tuple[str, ...] = ()) -> Tree:
    """The settings of a preset or a file, with its bases under it.

    Args:
        name: of the preset, or a path.
        beside: where to look for a path that is not there as it stands; a file's base is looked
            for beside the file.
        over: the files that have it for their base, the nearest last.

    Raises:
        UserError: there is neither, a file is its own base, or holds a study.
    """
    if name in names():
        text = PRESETS.joinpath(f"{name}.yaml").read_text(encoding="utf-8")
        tree = parse_yaml(text, name)
    else:
        path = Path(name) if beside is None or Path(name).exists() else beside / name
        if not path.is_file():
            raise UserError(
                f"expected a preset ({', '.join(names())}) or a YAML file, got '{name}': there "
                "is neither"
            )
        if (where := str(path.resolve())) in over:
            raise UserError(f"{path}: its own base: {' -> '.join([*over, where])}; name another")
        over = (*over, where)
        tree = read_yaml(path)
        if parts := sorted(tree.keys() & OF_A_STUDY):
            raise UserError(
                f"{path}: expected one run, got a study (it has {', '.join(parts)}): "
                f"'influbench sweep {path}' runs it, with --dry-run it says what would run"
            )
        beside = path.parent
    base = tree.pop("base", None)
    if base is None:
        return tree
    return merged(read(str(base), beside, over), tree)


def parse_options(texts: Sequence[str], option: str) -> Tree:
    """``KEY=VALUE`` texts of a command's option, values in YAML.

    Raises:
        UserError: a text without ``=``.
    """
    options: Tree = {}
    for text in texts:
        override(options, text, option, "slurm_partition=gpu")
    return options
