"""Studies from YAML: a question, a kind, and a grid of settings whose product is run.

A study has ``name`` and ``question``; ``kind`` (``loop`` by default); ``base``, a preset or file
whose settings its runs have, which a study of the loop needs; ``set``, what differs in all of its
runs; and ``grid``: dotted settings, each with a list of values, or several such grids, where
some arms get more seeds than others.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from influbench.config import Config, Tree, assign, checked, override, read_yaml
from influbench.errors import UserError
from influbench.loop import reading
from influbench.loop.settings import RunConfig
from influbench.studies import kind as kinds
from influbench.studies.kind import LOOP

PARTS = {"name", "question", "kind", "base", "set", "grid"}


@dataclass(frozen=True)
class Study:
    """A set of runs that answer one question."""

    name: str
    question: str
    runs: Mapping[str, Config]
    """By run id: what tells a run from its siblings."""
    kind: str = LOOP


def load_study(file: str | Path, overrides: Sequence[str] = ()) -> Study:
    """The runs of a study, the product of its grid.

    Raises:
        UserError: a part of the study is missing or unknown, or a setting is.
    """
    raw = read_yaml(Path(file))
    name = str(raw.get("kind", LOOP))
    _check_parts(raw, {"name", "base", "grid"} if name == LOOP else {"name"}, file)
    kind = kinds.load(name)
    given = raw.get("grid", {})
    runs: dict[str, Config] = {}
    for varied in _varied(given if isinstance(given, list) else [given], file):
        base = raw.get("base")
        tree = {} if base is None else reading.read(str(base), Path(file).parent)
        if "name" in kind.settings.model_fields:
            tree["name"] = raw["name"]
        for key, value in [*raw.get("set", {}).items(), *varied.items()]:
            assign(tree, str(key), value, str(file))
        for text in overrides:
            override(tree, text)
        cfg = checked(kind.settings, tree, str(file))
        runs[run_id(cfg, varied)] = cfg
    return Study(str(raw["name"]), str(raw.get("question", "")), runs, name)


def _varied(grids: Sequence[Any], file: str | Path) -> Iterator[Tree]:
    """The settings of each run, every grid's product after the other's."""
    for grid in grids:
        lists = grid.values() if isinstance(grid, dict) else [None]
        if not all(isinstance(values, list) and values for values in lists):
            raise UserError(
                f"{file}: expected 'grid' to give each setting a list of values, got {grid}"
            )
        for values in itertools.product(*grid.values()):
            yield dict(zip(grid, values, strict=True))


def one_run(cfg: RunConfig) -> Study:
    """A study of a single run of the loop."""
    return Study(cfg.name, "", {run_id(cfg): cfg})


def run_id(cfg: Config, varied: Mapping[str, Any] | None = None) -> str:
    """What a run's result file is called: estimator, seed, and what else a study varies."""
    rest = {k: v for k, v in (varied or {}).items() if k not in ("scoring.estimator", "seed")}
    parts = [f"seed={getattr(cfg, 'seed', 0)}", *(f"{key}={value}" for key, value in rest.items())]
    if type(cfg) is RunConfig:
        parts.insert(0, cfg.scoring.estimator.replace(":", "."))
    return ",".join("".join(c if c.isalnum() or c in "._=-+" else "_" for c in p) for p in parts)


def _check_parts(raw: Tree, needed: set[str], file: str | Path) -> None:
    found = {"unknown": sorted(set(raw) - PARTS), "missing": sorted(needed - set(raw))}
    if any(found.values()):
        raise UserError(
            f"{file}: expected a study with name, question, kind, base, set and grid; "
            + "; ".join(f"{what}: {', '.join(keys)}" for what, keys in found.items() if keys)
        )
