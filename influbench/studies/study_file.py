"""Studies from YAML: a question, a kind, and a grid of settings whose product is run.

A study has ``name`` and ``question``; ``kind`` (``loop`` by default); ``base``, a preset or file
whose settings its runs have, which a study of the loop needs; ``set``, what differs in all of its
runs; ``grid``: dotted settings, each with a list of values, or several such grids, where some arms
get more seeds than others; and ``exclude``: a list of points of the grid that are left out, each
some of its settings with a value or a list of values.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from influbench.config import Config, Tree, assign, checked, override, read_yaml
from influbench.errors import UserError
from influbench.files import digest
from influbench.loop import reading
from influbench.loop.settings import RunConfig
from influbench.studies import kind as kinds
from influbench.studies.kind import LOOP

PARTS = {"name", "question", "kind", "base", "set", "grid", "exclude"}
MOST_RUNS = 10_000
"""Of one grid."""
LONGEST = 200
"""Bytes of a run's name, of which files are named; a digest may follow."""


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
    points = list(_varied(given if isinstance(given, list) else [given], file))
    if not points:
        raise UserError(f"{file}: expected 'grid' to list some grids, got none")
    _refuse_twice(raw.get("set", {}), file)
    excluded = _Excluded(raw.get("exclude", []), {str(k) for p in points for k in p}, file)
    found: list[tuple[str, Config]] = []
    for varied in points:
        if excluded.has(varied):
            continue
        base = raw.get("base")
        tree = {} if base is None else reading.read(str(base), Path(file).parent)
        _refuse_twice(varied, file)
        if "name" in kind.settings.model_fields:
            tree["name"] = raw["name"]
        for key, value in [*raw.get("set", {}).items(), *varied.items()]:
            assign(tree, str(key), value, str(file))
        for text in overrides:
            override(tree, text)
        cfg = checked(kind.settings, tree, str(file))
        found.append((run_id(cfg, varied), cfg))
    excluded.refuse_idle()
    if not found:
        raise UserError(f"{file}: 'exclude' leaves no run of the grid")
    return Study(str(raw["name"]), str(raw.get("question", "")), _told_apart(found), name)


class _Excluded:
    """The points of a grid that are left out."""

    def __init__(self, points: Any, settings: set[str], file: str | Path) -> None:
        if not isinstance(points, list) or not all(isinstance(p, dict) and p for p in points):
            raise UserError(
                f"{file}: expected 'exclude' to be a list of settings of the grid with values, "
                f"such as '- {{seed: 1}}', got {points}"
            )
        unknown = sorted({str(key) for point in points for key in point} - settings)
        if unknown:
            raise UserError(
                f"{file}: 'exclude' names {', '.join(unknown)}: expected settings of the grid "
                f"({', '.join(sorted(settings))})"
            )
        self._file = file
        self._points: list[Tree] = points
        self._idle = list(range(len(points)))

    def has(self, varied: Tree) -> bool:
        """Whether a point of the grid is left out."""
        hits = [
            number
            for number, point in enumerate(self._points)
            if all(
                key in varied and varied[key] in (value if isinstance(value, list) else [value])
                for key, value in point.items()
            )
        ]
        self._idle = [number for number in self._idle if number not in hits]
        return bool(hits)

    def refuse_idle(self) -> None:
        """Refuses an exclusion that excludes nothing: most likely a slip of the pen."""
        if self._idle:
            raise UserError(
                f"{self._file}: 'exclude' {self._points[self._idle[0]]} matches no run of the grid"
            )


def _refuse_twice(settings: Mapping[Any, Any], file: str | Path) -> None:
    """Refuses a setting that is there in two forms, as ``sizes: {a: 1}`` and ``sizes.a: 2``."""
    seen: set[str] = set()
    for name in _names(settings):
        if name in seen:
            raise UserError(f"{file}: the setting '{name}' stands there twice: take one of them")
        seen.add(name)


def _names(settings: Mapping[Any, Any], before: str = "") -> Iterator[str]:
    """Settings by dotted name."""
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _names(value, f"{before}{key}.")
        else:
            yield f"{before}{key}"


def _told_apart(found: Sequence[tuple[str, Config]]) -> dict[str, Config]:
    """The runs by names that differ wherever their settings do.

    A name has ``_`` for what a file's name cannot hold; two runs that would share one, and names
    that are too long, end with a digest of the run's settings.
    """
    settings: dict[str, set[str]] = {}
    told = [(name, json.dumps(cfg.model_dump(mode="json"), sort_keys=True)) for name, cfg in found]
    for name, text in told:
        settings.setdefault(name.casefold(), set()).add(text)  # some disks know one case only
    runs: dict[str, Config] = {}
    for (name, text), (_, cfg) in zip(told, found, strict=True):
        short = name.encode()[:LONGEST].decode(errors="ignore")
        same = short == name and len(settings[name.casefold()]) == 1
        runs[name if same else f"{short}-{digest(text)[:8]}"] = cfg
    return runs


def _varied(grids: Sequence[Any], file: str | Path) -> Iterator[Tree]:
    """The settings of each run, every grid's product after the other's."""
    for grid in grids:
        lists = grid.values() if isinstance(grid, dict) else [None]
        if not all(isinstance(values, list) and values for values in lists):
            raise UserError(
                f"{file}: expected 'grid' to give each setting a list of values, got {grid}"
            )
        count = math.prod(map(len, grid.values()))
        if count > MOST_RUNS:
            raise UserError(
                f"{file}: expected 'grid' to have up to {MOST_RUNS:,} runs, got {count:,}: the "
                "product of its lists; several grids in a list add up instead"
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
    named = set(map(str, raw))
    found = {"unknown": sorted(named - PARTS), "missing": sorted(needed - named)}
    if any(found.values()):
        raise UserError(
            f"{file}: expected a study with name, question, kind, base, set, grid and exclude; "
            + "; ".join(f"{what}: {', '.join(keys)}" for what, keys in found.items() if keys)
        )
    for part in ("name", "question"):
        if not isinstance(raw.get(part, ""), str):
            raise UserError(f"{file}: expected '{part}' to be a text, got {raw[part]!r}")
    if not isinstance(raw.get("set", {}), dict):
        raise UserError(
            f"{file}: expected 'set' to hold settings as 'key: value' lines, got {raw['set']}"
        )
