"""The trainings as stages: each loads its libraries when it runs, and a cached one loads none."""

from __future__ import annotations

from collections.abc import Sequence

from influbench.data.records import Example, ModelRef, Pair
from influbench.store import Stage, Work
from influbench.training.settings import DPOStageConfig, SFTConfig, WarmupConfig
from influbench.training.subsets import Subset


def _warm_up(
    cfg: WarmupConfig, examples: Sequence[Example], student: ModelRef, *, work: Work
) -> None:
    from influbench.training.warming import warm_up

    warm_up(cfg, examples, student, work=work)


def _sft(cfg: SFTConfig, examples: Sequence[Example], student: ModelRef, *, work: Work) -> None:
    from influbench.training.fine_tuning import sft

    sft(cfg, examples, student, work=work)


def _dpo(cfg: DPOStageConfig, pairs: Sequence[Pair], teacher: ModelRef, *, work: Work) -> None:
    from influbench.training.dpo import dpo

    dpo(cfg, pairs, teacher, work=work)


def _short_trainings(
    cfg: SFTConfig,
    subsets: Sequence[Subset],
    examples: Sequence[Example],
    held_out: Sequence[Example],
    student: ModelRef,
    *,
    work: Work,
) -> None:
    from influbench.training.short_trainings import short_trainings

    short_trainings(cfg, subsets, examples, held_out, student, work=work)


WARM_UP = Stage("warm_up", 2, _warm_up)
SFT = Stage("sft", 3, _sft)
DPO = Stage("dpo", 4, _dpo)
SHORT_TRAININGS = Stage("short_trainings", 1, _short_trainings)
