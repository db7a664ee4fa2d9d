"""The axes of a study: the settings in which its runs differ, beside arm and seed."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

ARM = ("arm", "scoring.estimator")
"""Settings that name the arm: the column ``estimator`` of every row."""


def leaves(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration by dotted names; a list is one value, as JSON text."""
    return dict(_walk(config, ""))


def _walk(config: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        name = f"{path}{key}"
        if isinstance(value, Mapping) and value:
            yield from _walk(value, f"{name}.")
        elif isinstance(value, list | tuple | Mapping):
            yield name, json.dumps(value, default=str)
        else:
            yield name, value


def axes_of(configs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Settings with two values or more among the runs of one arm, in the order of the settings.

    Seeds are no axis (numbers are put together over them), and neither is what goes with the arm,
    such as its options.

    Args:
        configs: by run id.
    """
    found = {run: leaves(config) for run, config in configs.items()}
    names = list(dict.fromkeys(name for own in found.values() for name in own))
    values: dict[tuple[str, Any], set[Any]] = {}
    for own in found.values():
        arm = tuple(own.get(name) for name in ARM)
        for name in names:
            values.setdefault((name, arm), set()).add(own.get(name))
    varied = {name for (name, _), several in values.items() if len(several) > 1}
    return [name for name in names if name in varied and not _is_seed(name)]


def telling(
    numbers: Iterable[tuple[Hashable, Mapping[str, Any], Any]], axes: Sequence[str]
) -> list[str]:
    """The fewest axes that tell different numbers of one kind apart; ``run`` where none does.

    Args:
        numbers: what must agree (such as metric and seed), where it stands on the axes (with its
            ``run``), and the number; all of one estimator.
        axes: those of the study.
    """
    found = list(numbers)

    def clash(names: Sequence[str]) -> bool:
        seen: dict[Any, Any] = {}
        return any(
            seen.setdefault((kind, *(place.get(name) for name in names)), value) != value
            for kind, place, value in found
        )

    used = [*axes, "run"] if clash(axes) else list(axes)
    for axis in list(used):
        fewer = [other for other in used if other != axis]
        if not clash(fewer):
            used = fewer
    return used


def _is_seed(name: str) -> bool:
    last = name.rpartition(".")[2]
    return name == "name" or last in ("seed", "seeds") or last.endswith("_seed")
