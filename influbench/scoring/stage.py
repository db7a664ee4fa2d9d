"""Estimator × student × candidates -> scores, in resumable chunks."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from influbench import judging
from influbench.data.records import Example, ModelRef, Score
from influbench.errors import UserError
from influbench.estimator import Context, Facts, Scorer, Scores, as_scores, granting, registry
from influbench.estimator.checking import blamed
from influbench.executors import team
from influbench.executors.shares import Share, device_of, shared
from influbench.files import write_bytes
from influbench.judging import ArchivedJudge
from influbench.scoring.holding import check_lengths, check_sharded, hold, reference_passes
from influbench.scoring.settings import MethodConfig
from influbench.store import Stage, Work
from influbench.store.budget import Budget

FACTS = "diagnostics.json"
"""What the method says of itself, beside its scores."""

SHARED = 8
"""Most candidates of a chunk where several processes share them, unless a number is set."""

NOTES = "notes-{}.json"
"""What a reader must know of the student's passes, by the process that made them."""


def resolved_options(cfg: MethodConfig) -> dict[str, Any]:
    """All options of the method as plain JSON types, its defaults spelt out."""
    method: Any = registry.build(cfg.estimator, cfg.options)
    fields = {f.name: getattr(method, f.name) for f in dataclasses.fields(method)}
    return json.loads(json.dumps(fields, default=str))


def score(
    cfg: MethodConfig,
    candidates: Sequence[Example],
    reference: Sequence[Example],
    warmup: Sequence[Example],
    student: ModelRef,
    *,
    work: Work,
    budget: Budget | None = None,
) -> None:
    """Writes ``scores``: one ``Score`` a candidate, in the candidates' order.

    ``prepare`` and the scorer are metered apart (phases ``prepare`` and ``score``). After a kill
    ``prepare`` is paid again, chunks already scored are not.

    Raises:
        UserError: a candidate does not fit the context, a score is not finite, or a method that
            asks a judge is to be shared by several processes.
    """
    args = cfg, candidates, reference, warmup, student
    method = registry.build(cfg.estimator, cfg.options)
    if cfg.placement == "sharded":
        check_sharded(cfg, method.facts)
        size = _chunk(cfg, method.facts)
        left = frozenset(work.left("scores", list(candidates), size=size, kind=Score))
        if left:
            team.call(share_of_scores, *args, share=Share(only=left))
    chunks = -(-len(candidates) // _chunk(cfg, method.facts))
    asked = 1 if cfg.executor.kind == "local" else cfg.workers
    workers = min(asked, chunks - work.finished("scores"))
    if workers > 1:
        if "judge" in method.facts.needs:
            raise UserError(
                f"estimator '{cfg.estimator}' asks a judge, whose requests one process sends: set "
                "workers = 1 (judge.concurrency is how many requests go at a time)"
            )
        where = cfg.executor.model_copy(update={"workers": workers})
        shared(where, share_of_scores, args, work, chunks="scores", total=chunks)
    records = share_of_scores(*args, share=Share(), work=work, budget=budget)
    work.write("scores", records)
    facts = work.path / FACTS
    work.meta["scale"] = method.facts.scale
    work.meta["diagnostics"] = _kept(facts) if facts.exists() else {}
    said = sorted(work.path.glob(NOTES.format("*")))
    work.meta["notes"] = sorted({n for file in said for n in _kept(file)})


def _kept(file: Path) -> Any:
    """What a killed attempt wrote down beside its chunks."""
    try:
        return json.loads(file.read_text())
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{file}: expected what an earlier attempt wrote, got something else ({error}): delete "
            f"{file.parent} and run again"
        ) from error


def share_of_scores(
    cfg: MethodConfig,
    candidates: Sequence[Example],
    reference: Sequence[Example],
    warmup: Sequence[Example],
    student: ModelRef,
    *,
    share: Share,
    work: Work,
    budget: Budget | None = None,
) -> list[Score]:
    """Scores the chunks that are ``share``'s and not done yet; all of its scores, in order.

    Raises:
        UserError: see :func:`score`.
    """
    method = registry.build(cfg.estimator, cfg.options)
    facts = work.path / FACTS
    judge = _judge(cfg, work, budget) if "judge" in method.facts.needs else None
    networks = [] if judge is None else list(judge.models)
    scorer: Scorer | None = None
    held: Any = None

    def chunk(examples: list[Example]) -> list[Score]:
        nonlocal scorer, held
        if scorer is None:
            if "student" in method.facts.needs:
                from influbench.derivatives.objective import examples_of

                passes = reference_passes(method.facts, len(candidates))
                held = hold(cfg, student, work, device_of(cfg.device, share), passes=passes)
                check_lengths(held, [*candidates, *examples_of(cfg.objective, reference)])
                networks.append(held.model)
            context = Context(
                student=held,
                reference=tuple(reference),
                warmup=tuple(warmup),
                scratch=work.folder(f"scratch/{share.rank}"),
                seed=cfg.seed,
                judge=judge,
                objective=cfg.objective,
                dpo_beta=cfg.dpo_beta,
            )
            with (
                work.meter.phase("prepare", items=len(reference), models=networks),
                blamed(method, cfg.estimator),
            ):
                scorer = granting.prepare(method, context, cfg.estimator)
        with (
            work.meter.phase("score", items=len(examples), models=networks),
            blamed(method, cfg.estimator),
        ):
            scores = as_scores(_named(cfg.estimator, scorer, examples), len(examples))
        if share.rank == 0 and not facts.exists():
            write_bytes(facts, json.dumps(dict(scores.diagnostics)).encode())
        if held is not None and (notes := held.room.notes):
            write_bytes(work.path / NOTES.format(share.rank), json.dumps(notes).encode())
        return _records(examples, scores)

    records = work.chunks(
        "scores",
        list(candidates),
        chunk,
        size=_chunk(cfg, method.facts),
        kind=Score,
        owns=share.owns,
    )
    if judge is not None:
        with work.meter.phase("score") as phase:  # with what a killed attempt had bought
            bought = judge.usage.since(judging.booked(work.meter))
            phase.add_api(*dataclasses.astuple(bought))
    return records


def _opens(cfg: MethodConfig) -> bool:
    return "student" in registry.build(cfg.estimator, cfg.options).facts.needs


STAGE = Stage("score", 4, score, opens=_opens)


def _chunk(cfg: MethodConfig, facts: Facts) -> int:
    """Candidates between two safe points; a few where several processes share them."""
    few = min(SHARED, facts.at_once) if cfg.workers > 1 else facts.at_once
    return cfg.chunk_size or few


def _judge(cfg: MethodConfig, work: Work, budget: Budget | None) -> ArchivedJudge:
    if cfg.judge is None:
        raise UserError(f"estimator '{cfg.estimator}' asks a judge: set judge.kind and judge.model")
    with work.meter.phase("load"):
        return judging.build(cfg.judge, cfg.archive, buyer=work.path.name, budget=budget)


def _named(name: str, scorer: Scorer, examples: Sequence[Example]) -> Any:
    try:
        return scorer(examples)
    except MemoryError as error:
        raise UserError(
            f"estimator '{name}' ran out of memory on {len(examples)} candidates: use a smaller "
            "model, fewer references or shorter candidates (scoring.max_length)"
        ) from error


def _records(examples: Sequence[Example], scores: Scores) -> list[Score]:
    def row(values: np.ndarray | None, i: int) -> Any:
        return None if values is None else values[i]

    out = []
    for i, example in enumerate(examples):
        stderr, items = row(scores.stderr, i), row(scores.per_reference, i)
        out.append(
            Score(
                id=example.id,
                value=float(scores.value[i]),
                stderr=None if stderr is None else float(stderr),
                per_reference=None if items is None else tuple(map(float, items)),
            )
        )
    return out
