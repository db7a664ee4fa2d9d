"""What ``keep_checkpoints`` adds to a run's work (``influbench.loop.midway``)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from influbench.loop import arms
from influbench.loop.plan.task import Task
from influbench.loop.settings import RunConfig
from influbench.scoring.settings import ORACLE

STATE = 3
"""Copies of the weights that a student kept with its moments takes."""


def with_kept(cfg: RunConfig, found: Sequence[Task], influence: Sequence[Task]) -> list[Task]:
    """The stages of a run with those of its states on the way; the same where none are kept.

    Args:
        cfg: the run.
        found: its stages.
        influence: what the exact influence of as many candidates takes.
    """
    if not cfg.keep_checkpoints or cfg.stop_after != "end":
        return list(found)
    return [*(_keeping(cfg, task) for task in found), *_added(cfg, found, influence)]


def _keeping(cfg: RunConfig, task: Task) -> Task:
    count = cfg.keep_checkpoints
    if task.stage == "dpo":
        return replace(task, saved=task.saved + count - 1)
    if task.stage == "sft" and not task.model:
        return replace(task, saved=task.saved + STATE * count)
    return task


def _added(cfg: RunConfig, found: Sequence[Task], influence: Sequence[Task]) -> Iterator[Task]:
    arm, count = arms.parse(cfg.scoring.estimator), cfg.keep_checkpoints
    shares = [f"{k / count:.3g}" for k in range(1, count + 1)]
    learners = dict.fromkeys((arms.BASELINE, arm.name))
    for name in learners:
        for share in shares:
            yield from (replace(task, label=f"{name} student@{share}") for task in influence)
    if not arm.pairs:
        return
    if ORACLE not in (*cfg.scoring.compare, arm.estimator):
        for _ in range(cfg.rounds):  # of the candidates before the teacher's first step
            yield from influence
    own = {arm.name, f"{arm.name}-turns"}
    for share in shares:
        name = f"{arm.name}@{share}"
        for task in found:
            fresh = task.stage == "generate" and "-candidates" in task.label
            learns = task.label.startswith(f"training-{arm.name} ") or task.label in own
            again = learns and task.stage not in ("score", "noise_floor", "dpo") and not task.model
            if fresh or (again and share != "1"):
                part = "candidates" if fresh else arm.name
                label = task.label.replace(part, f"candidates-{name}" if fresh else name)
                yield replace(task, label=label)
        for _ in range(cfg.rounds):
            yield from (replace(task, label=name) for task in influence)
