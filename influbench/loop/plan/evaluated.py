"""The stages that evaluate one student: its losses, its answers, and what a judge says of them."""

from __future__ import annotations

import math
from collections.abc import Iterator

from influbench.loop.plan import lengths as texts
from influbench.loop.plan.lengths import JUDGED, TEMPLATE, Lengths, Set
from influbench.loop.plan.task import Task
from influbench.loop.settings import RunConfig


def evaluated(
    cfg: RunConfig, known: Lengths, arm: str, model: str, *, against: bool
) -> Iterator[Task]:
    """The stages that look at a student.

    Args:
        cfg: the run.
        known: the sizes that no setting says.
        arm: whose student it is.
        model: its name where it is another than the one that candidates are scored for.
        against: whether its answers are compared with those of the baseline's.
    """
    name = f"{arm} {model}".strip()
    suites = cfg.evaluation.suites
    one, two = cfg.evaluation.answers, cfg.evaluation.turns
    if {"alpaca_eval", "head_to_head"} & set(suites):
        limit = one.sampling.max_new_tokens
        yield _answers(cfg, name, model, known.evaluation, 1, limit, 32)
    if "losses" in suites:
        sets = (known.evaluation, known.reference)
        yield Task(
            stage="losses",
            label=name,
            who="student",
            model=model,
            compute="float32",
            items=sum(s.count for s in sets),
            passes=sum(s.count for s in sets),
            read=sum(s.count * s.tokens for s in sets) + known.evaluation.count * TEMPLATE,
            readings=len(sets),
        )
    if "alpaca_eval" in suites and against:
        orders = 2 if cfg.evaluation.orders == "both" else 1
        answer = texts.answered(one.sampling.max_new_tokens)
        yield _judged(cfg, "compare", name, orders * known.evaluation.count, JUDGED + 2 * answer)
    if "mt_bench" in suites:
        limit = two.sampling.max_new_tokens
        yield _answers(cfg, f"{name}-turns", model, known.questions, 2, limit, 32)
        calls = 2 * known.questions.count
        yield _judged(
            cfg,
            "grade",
            name,
            calls,
            texts.GRADED + 0.75 * known.questions.question + 1.5 * texts.answered(limit),
        )


def _answers(
    cfg: RunConfig, label: str, model: str, asked: Set, turns: int, limit: int, batch: int
) -> Task:
    rows = min(batch, asked.count)
    answer = texts.answered(limit)
    # A turn's prompt holds the turns before it, with their answers.
    each = turns * TEMPLATE + asked.longest * (turns + 1) / 2
    each += answer * turns * (turns - 1) / 2
    return Task(
        stage="answer",
        label=label,
        who="student",
        model=model,
        compute=cfg.evaluation.dtype,
        items=asked.count,
        passes=asked.count * turns,
        read=asked.count * each,
        readings=turns * math.ceil(asked.count / rows),
        decoded=asked.count * turns * answer,
        steps=turns * math.ceil(asked.count / rows) * limit,
        rows=rows,
    )


def _judged(cfg: RunConfig, stage: str, label: str, calls: float, prompt: float) -> Task:
    local = cfg.judge.kind in ("local", "vllm")
    reads = texts.GRADE_READS if local and stage == "grade" else 1
    replies = calls * (1 if stage == "compare" or local else 200)
    return Task(
        stage=stage,
        label=label,
        who="judge",
        compute=cfg.judge.dtype,
        items=calls,
        calls=calls,
        prompt=calls * prompt * reads,
        # A mark that begins another (1 and 10) is gone on from.
        readings=calls * (2 if local and stage == "grade" else 1),
        replies=replies,
    )
