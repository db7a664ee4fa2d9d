"""The loop on one screen: generate, warm up, score, pair, teach, train, evaluate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from influbench import scoring
from influbench.data.records import Candidate, LedgerRow, Outcome, Pair, Score
from influbench.evaluation.evaluator import Evaluated
from influbench.loop import arms, midway
from influbench.loop.arms import BASE, BASELINE
from influbench.loop.midway import Midway
from influbench.loop.sets import check
from influbench.loop.settings import RunConfig
from influbench.loop.steps import Steps, teacher_of
from influbench.models.templates import templated
from influbench.statistics.estimate import Estimate
from influbench.store.session import Session

Marks = Mapping[str, Evaluated]
"""Of one arm: by student, the probed one first."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """What one turn of the loop left."""

    number: int
    candidates: Sequence[Candidate]
    scores: Mapping[str, Sequence[Score]]
    """By estimator: the one that teaches and those compared."""
    facts: Mapping[str, Mapping[str, float]]
    """What each estimator reports of itself."""
    pairs: Sequence[Pair] = ()
    teaching: Mapping[str, Any] = field(default_factory=dict)
    """What DPO reports: losses, held-out accuracy."""
    marks: Marks = field(default_factory=dict)
    """The trained students'."""
    midway: Sequence[Midway] = ()
    """The teacher on the way of its training, where ``keep_checkpoints`` asks."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """All that a run left; ``results`` writes it."""

    config: RunConfig
    methods: Mapping[str, Mapping[str, Any]]
    """All options of every method that scored, its defaults spelt out."""
    rounds: Sequence[Round]
    baseline: Marks
    """The students of the untaught teacher."""
    base: Marks
    """The students before any training."""
    trained: Mapping[str, Mapping[str, Mapping[str, Any]]]
    """What each training reports, by student and arm: examples, response tokens, steps, losses."""
    texts: Mapping[str, Sequence[Outcome]]
    """What the probed student's training data look like, by arm: lengths, root verbs."""
    positive_shares: Mapping[str, Mapping[float, Estimate]]
    """Of its training data on the way, by arm and share of its steps."""
    ledger: Sequence[LedgerRow]
    notes: Sequence[str]


def run(cfg: RunConfig, session: Session) -> Run:
    """Runs the loop; a stage whose result the store has is not run again.

    In every round the student is warmed up from the base student on what that round's teacher
    writes, and the final student is trained from the base student (the paper; its released code has
    one round). Other students learn the same rows and stand beside it.

    Raises:
        UserError: see :func:`check`; or a stage cannot go on.
    """
    sets = check(cfg)
    if sets.overlap:
        session.note(f"leaky: {sets.overlap} reference examples are also evaluation prompts")
    arm = arms.parse(cfg.scoring.estimator)
    teacher = teacher_of(cfg, session)
    students = {one.name: templated(one, session.run) for one in (cfg.student, *cfg.students)}
    student = students[cfg.student.name]
    same = teacher.digest in {one.digest for one in students.values()}
    for note in _doubts(cfg, arm, same):
        session.note(note)
    steps = Steps(cfg, session, sets, students)
    untaught: Marks = {}
    base: Marks = {}
    against = None
    if cfg.stop_after == "end":
        against = steps.train(BASELINE, steps.training_set(BASELINE, teacher, sets.seeds))
        untaught = steps.evaluate(BASELINE, against)
        base = steps.evaluate(BASE, students, against)
    rounds: list[Round] = []
    methods: dict[str, Mapping[str, Any]] = {}
    seeds = sets.seeds
    for number in range(1, cfg.rounds + 1):
        writes = partial(steps.generate, teacher, seeds=seeds)
        warmup = writes(cfg.sizes.warmup, f"round{number}-warmup")
        candidates = writes(
            cfg.sizes.candidates,
            f"round{number}-candidates",
            responses=cfg.generation.responses_per_instruction,
        )
        warmed = steps.warm_up(student, warmup)
        wanted = [*cfg.scoring.compare, *([arm.estimator] if arm.estimator else [])]
        scored = {
            method: steps.score(method, candidates, warmup, warmed)
            for method in dict.fromkeys(wanted)
        }
        methods |= {m: scoring.resolved_options(found.method) for m, found in scored.items()}
        turn = Round(
            number=number,
            candidates=candidates,
            scores={method: found.scores for method, found in scored.items()},
            facts={method: found.facts for method, found in scored.items()},
        )
        if arm.estimator:
            scores, kept = turn.scores[arm.estimator], {}
            if arm.pairs:
                told = steps.teach(candidates, teacher, arm, scored[arm.estimator])
                turn, teacher = replace(turn, pairs=told.pairs, teaching=told.report), told.teacher
                kept = told.kept
            elif arm.way == "bootstrap":
                seeds = arms.as_seeds(arms.best(candidates, scores, steps.shots_wanted))
            if arm.way == "filter":
                rows = arms.best(candidates, scores, cfg.sizes.training)
            else:
                rows = steps.training_set(arm.name, teacher, seeds)
            marks = steps.evaluate(arm.name, steps.train(arm.name, rows), against)
            turn = replace(turn, marks=marks)
            if kept:
                before = rounds[-1].marks if rounds else untaught
                looked = midway.Looked(steps, turn, seeds, warmup, warmed, before, against)
                turn = replace(turn, midway=midway.teachers(looked, arm, kept))
        rounds.append(turn)
    return Run(
        config=cfg,
        methods=methods,
        rounds=rounds,
        baseline=untaught,
        base=base,
        trained=steps.trained,
        texts=steps.texts,
        positive_shares=midway.positive_shares(steps),
        ledger=session.ledger,
        notes=session.notes,
    )


def _doubts(cfg: RunConfig, arm: arms.Arm, same: bool) -> Iterator[str]:
    """What its settings make of a run, where that can hardly be meant."""
    if same:
        yield (
            f"teacher and student are the same model ({cfg.teacher.name}): what it writes has "
            "nothing to teach it; take a student that the teacher is ahead of"
        )
    if cfg.scoring.options and not arm.estimator:
        yield f"scoring.options are not used: arm '{arm.name}' teaches by no method"
