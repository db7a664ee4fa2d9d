"""The stages that several runs over one store are made of, each once.

Two stages are the same where their work is, and all settings that can have acted until then. A
store knows better, since it compares what went into a stage and not what could have: a plan may
count a stage twice that is made once, not the other way round.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from influbench.loop import arms
from influbench.loop.plan.task import Task
from influbench.loop.settings import RunConfig
from influbench.scoring.settings import ORACLE

WRITING = ("seed", "teacher", "generation", "data.seeds", "data.num_seeds")
PROBING = (*WRITING, "student", "warmup", "sizes.warmup")
SCORING = (*PROBING, "sizes.candidates", "data", "scoring", "judge")
EVALUATED = (*WRITING, "student", "sft", "data", "evaluation", "judge", "keep_checkpoints")
UNTAUGHT = (arms.BASELINE, arms.BASE)
"""What these learn, the arm of a run does not change."""

Planned = tuple[RunConfig, Sequence[Task]]


def once(runs: Iterable[Planned]) -> Iterator[Planned]:
    """The runs in order, each with the stages that none before it has."""
    seen: set[tuple[Task, int, str]] = set()
    for cfg, found in runs:
        tree = cfg.model_dump(mode="json")
        times: Counter[Task] = Counter()
        own: list[Task] = []
        for task in found:
            key = (task, times[task], json.dumps(_acting(cfg, tree, task, times[task])))
            times[task] += 1
            if key not in seen:
                seen.add(key)
                own.append(task)
        yield cfg, own


def _acting(cfg: RunConfig, tree: dict[str, Any], task: Task, rounds_before: int) -> dict[str, Any]:
    """The settings that can have acted until a stage is done."""
    scoring = {**tree["scoring"], "compare": ()}  # others' scores act on nothing
    told = {**tree, "name": "", "device": "", "scoring": scoring}
    first = task.label.partition(" ")[0]
    arm = first.removeprefix("training-").removesuffix("-turns")
    if arm in UNTAUGHT:
        if "@" not in task.label:
            return _picked(told, EVALUATED)
        told["scoring"] = _as_asked(cfg, scoring, ORACLE)  # on the way of its training
        return _picked(told, (*EVALUATED, "scoring", "sizes.candidates"))
    if rounds_before or "@" in task.label:
        return told
    if task.stage == "generate" and first.startswith("round1-"):
        return _picked(told, WRITING)
    if task.stage == "warm_up":
        return _picked(told, PROBING)
    if task.stage in ("score", "noise_floor"):
        told["scoring"] = _as_asked(cfg, scoring, task.label)
        return _picked(told, SCORING)
    return told


def _as_asked(cfg: RunConfig, scoring: dict[str, Any], name: str) -> dict[str, Any]:
    """The settings of scores by one method, whatever the arm."""
    return {**scoring, "estimator": name, "options": cfg.scoring.options_of(name)}


def _picked(tree: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Settings by dotted name."""
    picked: dict[str, Any] = {}
    for name in names:
        section, _, field = name.partition(".")
        picked[name] = tree[section][field] if field else tree[section]
    return picked
