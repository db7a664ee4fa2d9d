"""The student as a method wants it held for scoring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from influbench import models
from influbench.data.records import Example, ModelRef
from influbench.errors import UserError
from influbench.estimator import Facts
from influbench.executors import team
from influbench.scoring.settings import MethodConfig
from influbench.store import Work

if TYPE_CHECKING:
    from influbench.student import LanguageStudent
    from influbench.student.placement.sharded import ShardedStudent

PAYS = 100
"""Passes over the references from which compiling layers pays. On an H100 it takes 11.5 s and saves
0.13 s of each pass over 256 references at 1.1B, three times as much at 8B (docs/LOG.md)."""


def reference_passes(facts: Facts, candidates: int) -> int:
    """How often a method reads all references without a gradient: once a candidate, or hardly."""
    return candidates if "M" in facts.passes[1] else 0


def hold(
    cfg: MethodConfig,
    student: ModelRef,
    work: Work,
    device: str | None = None,
    *,
    passes: int = 0,
) -> LanguageStudent | ShardedStudent:
    """The student as the method wants it held, loaded in a phase of its own.

    Args:
        cfg: the method.
        student: where it is.
        work: whose meter measures.
        device: in place of the method's.
        passes: how many will be made over the references, in all attempts and processes.

    Raises:
        UserError: ``compile = on`` where nothing is compiled; one process where several are
            needed, or several where they have nothing to share.
    """
    import torch

    from influbench.student import StudentSettings, load_student
    from influbench.student.placement import sharded

    device = device or cfg.device
    shared = cfg.placement == "sharded"
    if team.size() > 1 and not shared:
        raise UserError(
            f"torchrun started {team.size()} processes and scoring.placement = {cfg.placement} "
            "uses one: set it to sharded, or start without torchrun (scoring.workers shares "
            "candidates over GPUs)"
        )
    if shared:
        device = team.device(device)
    settings = StudentSettings(
        device="cpu" if shared else device,
        dtype=cfg.dtype,
        compute=cfg.compute,
        attention=cfg.attention,
        max_length=cfg.max_length,
        token_budget=cfg.token_budget,
        placement="device" if shared else cfg.placement,
        learn=cfg.learn,
        told=cfg.told,
        fused=_compiled(cfg, device, passes),
    )
    with work.meter.phase("load"):
        held = load_student(student, settings)
    if cfg.compile == "on" and not held.packed:
        raise UserError(
            f"scoring.compile = on: layers of model type '{held.model.config.model_type}' are not "
            "compiled, since its rows cannot be packed: leave it at auto"
        )
    return sharded.shard(held, torch.device(models.device_of(device))) if shared else held


def check_sharded(cfg: MethodConfig, facts: Facts) -> None:
    """Refuses what a student in shards cannot do, before anything is loaded.

    Raises:
        UserError: the method, or the way in which the command was started, does not fit.
    """
    if not team.size():
        raise UserError(
            "scoring.placement = sharded needs the processes that share the student: start with "
            "torchrun --nproc-per-node N -m influbench ..."
        )
    if cfg.workers > 1:
        raise UserError(
            f"scoring.placement = sharded: all processes score every candidate together, got "
            f"scoring.workers = {cfg.workers}: leave it out"
        )
    if cfg.estimator != "exact" and ("gradients" in facts.needs or "judge" in facts.needs):
        raise UserError(
            f"estimator '{cfg.estimator}' does not work on a student in shards, of whose gradient "
            "no process holds the whole: use 'exact', or scoring.placement = offloaded"
        )


def _compiled(cfg: MethodConfig, device: str, passes: int) -> bool:
    import torch

    from influbench.student import fused

    if cfg.compile == "off":
        return False
    place = torch.device(models.device_of(device))
    possible = fused.possible(place)
    if cfg.compile == "on" and not possible:
        raise UserError(
            f"scoring.compile = on: expected a CUDA device and Triton, got device '{place}': leave "
            "it at auto"
        )
    return possible and (cfg.compile == "on" or passes >= PAYS)


def check_lengths(student: LanguageStudent | ShardedStudent, examples: Sequence[Example]) -> None:
    """Refuses, before any pass, what does not fit the student.

    Raises:
        UserError: the first example that is too long.
    """
    for example in examples:
        student.encode(example)
