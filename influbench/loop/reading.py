"""Configurations from YAML: presets by name, files by path, ``--set`` on top, studies as grids.

A run is a YAML file with an optional ``base:`` (a preset or a file) and what differs from it. A
study has ``name``, ``question``, ``base``, optionally ``set`` (what differs in all of its runs) and
``grid``: dotted settings, each with a list of values, whose product is run.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from influbench.config import Tree, assign, checked, override, parse_yaml, read_yaml
from influbench.errors import UserError
from influbench.loop.pipeline import RunConfig

PRESETS = files("influbench.loop") / "presets"


@dataclass(frozen=True)
class Study:
    """A set of runs that answer one question."""

    name: str
    question: str
    runs: Mapping[str, RunConfig]
    """By run id: what tells a run from its siblings."""


def names() -> list[str]:
    """The presets that come with the package."""
    return sorted(
        p.name.removesuffix(".yaml") for p in PRESETS.iterdir() if p.name.endswith(".yaml")
    )


def load_run(
    preset_or_file: str,
    overrides: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
) -> RunConfig:
    """The configuration of one run.

    Args:
        preset_or_file: a preset's name or a YAML file.
        overrides: ``key.subkey=value``, values in YAML, applied in order.
        settings: the same by dotted name, applied before them.

    Raises:
        UserError: no such preset or file, or a setting that does not exist or has a wrong type.
    """
    tree = _read(preset_or_file)
    for key, value in (settings or {}).items():
        assign(tree, key, value, f"setting {key}")
    for text in overrides:
        override(tree, text)
    return build(
        tree, f"preset '{preset_or_file}'" if preset_or_file in names() else preset_or_file
    )


def load_study(file: str, overrides: Sequence[str] = ()) -> Study:
    """The runs of a study, the product of its grid.

    Raises:
        UserError: see :func:`load_run`; or a part of the study is missing.
    """
    raw = read_yaml(Path(file))
    unknown = sorted(set(raw) - {"name", "question", "base", "set", "grid"})
    missing = sorted({"name", "base", "grid"} - set(raw))
    if unknown or missing:
        raise UserError(
            f"{file}: expected a study with name, question, base, set and grid; "
            + "; ".join(
                f"{what}: {', '.join(keys)}"
                for what, keys in (("unknown", unknown), ("missing", missing))
                if keys
            )
        )
    grid: Tree = raw["grid"]
    if not grid or not all(isinstance(values, list) and values for values in grid.values()):
        raise UserError(
            f"{file}: expected 'grid' to give each setting a list of values, got {grid}"
        )
    runs: dict[str, RunConfig] = {}
    for values in itertools.product(*grid.values()):
        tree = _read(str(raw["base"]), Path(file).parent)
        tree["name"] = raw["name"]
        for key, value in [*raw.get("set", {}).items(), *zip(grid, values, strict=True)]:
            assign(tree, str(key), value, file)
        for text in overrides:
            override(tree, text)
        cfg = build(tree, file)
        runs[run_id(cfg, dict(zip(grid, values, strict=True)))] = cfg
    return Study(str(raw["name"]), str(raw.get("question", "")), runs)


def run_id(cfg: RunConfig, varied: Mapping[str, Any] | None = None) -> str:
    """What a run's result file is called: estimator, seed, and what else a study varies."""
    rest = {k: v for k, v in (varied or {}).items() if k not in ("scoring.estimator", "seed")}
    parts = [cfg.scoring.estimator.replace(":", "."), f"seed={cfg.seed}"]
    parts += [f"{key}={value}" for key, value in rest.items()]
    return ",".join("".join(c if c.isalnum() or c in "._=-+" else "_" for c in p) for p in parts)


def build(tree: Tree, where: str) -> RunConfig:
    """A checked configuration of a run; see :func:`checked`."""
    return checked(RunConfig, tree, where)


def _read(name: str, beside: Path | None = None) -> Tree:
    """A preset or a file with its bases under it."""
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
        tree = read_yaml(path)
    base = tree.pop("base", None)
    if base is None:
        return tree
    return _merge(_read(str(base), beside), tree)


def _merge(under: Tree, over: Tree) -> Tree:
    out = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict) and key != "options"
        out[key] = _merge(out[key], value) if both else value
    return out


def parse_options(texts: Sequence[str]) -> Tree:
    """``KEY=VALUE`` texts as options, values in YAML.

    Raises:
        UserError: a text without ``=``.
    """
    options: Tree = {}
    for text in texts:
        override(options, text)
    return options
