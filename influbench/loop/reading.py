"""Configurations from YAML: presets by name, files by path, ``--set`` on top, studies as grids.

A run is a YAML file with an optional ``base:`` (a preset or a file) and what differs from it. A
study has ``name``, ``question``, ``base``, optionally ``set`` (what differs in all of its runs) and
``grid``: dotted settings, each with a list of values, whose product is run.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeGuard, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from influbench.errors import UserError
from influbench.loop.pipeline import RunConfig

PRESETS = files("influbench.loop") / "presets"
Tree = dict[str, Any]
C = TypeVar("C", bound=BaseModel)


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


def load_run(preset_or_file: str, overrides: Sequence[str] = ()) -> RunConfig:
    """The configuration of one run.

    Args:
        preset_or_file: a preset's name or a YAML file.
        overrides: ``key.subkey=value``, values in YAML, applied in order.

    Raises:
        UserError: no such preset or file, or a setting that does not exist or has a wrong type.
    """
    tree = _read(preset_or_file)
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
    raw = _yaml(Path(file))
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


def checked(kind: type[C], tree: Tree, where: str) -> C:
    """Checked settings.

    Raises:
        UserError: one line: which setting, what was expected, what came.
    """
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        path = [str(part) for part in first["loc"]]
        key = ".".join(path)
        if first["type"] == "extra_forbidden":
            known = _fields(kind, path[:-1])
            close = difflib.get_close_matches(path[-1], known, n=2)
            hint = (
                f"did you mean {' or '.join(close)}?"
                if close
                else f"expected one of {sorted(known)}"
            )
            raise UserError(f"{where}: there is no setting '{key}'; {hint}") from error
        raise UserError(
            f"{where}: setting '{key}': {first['msg']}, got {first['input']!r}"
        ) from error


def _fields(kind: type[BaseModel], path: Sequence[str]) -> list[str]:
    model = kind
    for part in path:
        annotation = model.model_fields[part].annotation
        found = [t for t in (annotation, *get_args(annotation)) if _is_model(t)]
        if not found:
            return []
        model = found[0]
    return list(model.model_fields)


def _is_model(annotation: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _read(name: str, beside: Path | None = None) -> Tree:
    """A preset or a file with its bases under it."""
    if name in names():
        text = PRESETS.joinpath(f"{name}.yaml").read_text(encoding="utf-8")
        tree = _parse(text, name)
    else:
        path = Path(name) if beside is None or Path(name).exists() else beside / name
        if not path.is_file():
            raise UserError(
                f"expected a preset ({', '.join(names())}) or a YAML file, got '{name}': there "
                "is neither"
            )
        tree = _yaml(path)
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


def _yaml(path: Path) -> Tree:
    if not path.is_file():
        raise UserError(f"expected a YAML file at {path}: there is none")
    return _parse(path.read_text(encoding="utf-8"), str(path))


def _parse(text: str, where: str) -> Tree:
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{where}: expected YAML, got: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise UserError(
            f"{where}: expected settings as 'key: value' lines, got {type(tree).__name__}"
        )
    return tree


def override(tree: Tree, text: str) -> None:
    """Applies one ``key.subkey=value``, the value in YAML.

    Raises:
        UserError: it is no such text, or a setting on the way has no parts.
    """
    key, found, value = text.partition("=")
    if not found or not key:
        raise UserError(
            f"--set {text}: expected KEY=VALUE, for example --set scoring.estimator=trak"
        )
    assign(tree, key, _scalar(value), f"--set {text}")


def _scalar(text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    try:
        return float(text) if isinstance(value, str) else value  # YAML 1.1 reads 1e-5 as text
    except ValueError:
        return value


def assign(tree: Tree, key: str, value: Any, where: str) -> None:
    """Sets one dotted key; ``where`` is for the error message."""
    *parents, last = key.split(".")
    node = tree
    for part in parents:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise UserError(f"{where}: '{part}' is a single setting and has no parts")
    node[last] = value


def parse_options(texts: Sequence[str]) -> Tree:
    """``KEY=VALUE`` texts as options, values in YAML.

    Raises:
        UserError: a text without ``=``.
    """
    options: Tree = {}
    for text in texts:
        override(options, text)
    return options
