"""Teacher and students on the way of their trainings, where ``keep_checkpoints`` asks for it.

Of the teacher after each share of its DPO steps: how the student does that learns what it writes
(figures 3a and 3b of the paper), and the influence of fresh candidates that it writes (3c). Of each
arm's student after each share of its own steps: what share of its training data still has positive
influence (3d). Influence is the exact one throughout, so that arms can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from influbench.data.records import Candidate, ModelRef, Outcome, Score, SeedPrompt
from influbench.evaluation.evaluator import Evaluated
from influbench.files import digest
from influbench.loop.arms import Arm
from influbench.scoring import ORACLE
from influbench.statistics import bootstrap
from influbench.statistics.estimate import Estimate

if TYPE_CHECKING:
    from influbench.loop.pipeline import Round
    from influbench.loop.steps import Steps

MIDWAY = "midway/{share:.3g}/{metric}"
"""Row or outcome of an arm whose teacher had done that share of its DPO steps."""
INFLUENCE = "influence"
"""Such an outcome: of a candidate that the teacher wrote; its category is the seed prompt."""
POSITIVE = "positive_share"
"""Row, with the share of the student's steps after a slash."""


@dataclass(frozen=True)
class Midway:
    """What a teacher is good for after a share of its DPO steps."""

    share: float
    """0 is the teacher that the round began with."""
    candidates: Sequence[Candidate]
    scores: Sequence[Score]
    """Their exact influence on the warmed-up student of the round."""
    marks: Evaluated
    """Of the probed student that learnt what this teacher writes."""

    def named(self, metric: str) -> str:
        """What a number about it is called."""
        return MIDWAY.format(share=self.share, metric=metric)

    def influence(self) -> list[Outcome]:
        """That of the candidates, one by one."""
        return [
            Outcome(metric=self.named(INFLUENCE), item=c.id, value=s.value, category=c.group)
            for c, s in zip(self.candidates, self.scores, strict=True)
        ]


@dataclass(frozen=True)
class Looked:
    """The round whose teacher is looked at, and what it was run with."""

    steps: Steps
    turn: Round
    """With its teacher taught and its students' marks."""
    seeds: Sequence[SeedPrompt]
    """What the teacher is shown."""
    warmup: Sequence[Candidate]
    warmed: ModelRef
    """The round's student, warmed up on ``warmup``."""
    before: Mapping[str, Evaluated]
    """Marks of the students of the teacher that the round began with."""
    against: Mapping[str, ModelRef] | None
    """Whose answers its students' are compared with."""


def teachers(looked: Looked, arm: Arm, kept: Mapping[float, ModelRef]) -> list[Midway]:
    """The teacher before its training and at every share of its steps in ``kept``, 1 the end."""
    steps, turn = looked.steps, looked.turn
    probed, count = steps.cfg.student.name, steps.cfg.sizes.candidates
    salt = f"round{turn.number}-candidates"
    start = steps.score(ORACLE, turn.candidates, looked.warmup, looked.warmed)
    found = [Midway(0.0, turn.candidates, start.scores, looked.before[probed])]
    for share, teacher in sorted(kept.items()):
        name = f"{arm.name}@{share:.3g}"
        fresh = steps.generate(teacher, count, salt, f"{salt}-{name}", seeds=looked.seeds)
        scored = steps.score(ORACLE, fresh, looked.warmup, looked.warmed, label=name)
        marks = turn.marks
        if share < 1:
            rows = steps.training_set(name, teacher, looked.seeds)
            marks = steps.evaluate(name, steps.train_probed(name, rows), looked.against)
        found.append(Midway(share, fresh, scored.scores, marks[probed]))
    return found


def positive_shares(steps: Steps) -> dict[str, dict[float, Estimate]]:
    """By arm and share of its student's steps: of its training data, those whose influence is > 0.

    As many of the data are scored as there are candidates in a round, the first that were written;
    a step is one at the peak of the student's learning rate. Intervals are over seed prompts.
    """
    found: dict[str, dict[float, Estimate]] = {}
    for arm, learner in steps.learners.items():
        rows = learner.rows[: steps.cfg.sizes.candidates]
        for share, student in sorted(learner.kept.items()):
            label = f"{arm} student@{share:.3g}"
            scores = steps.score(ORACLE, rows, learner.rows, student, label=label).scores
            rng = np.random.default_rng(int(digest(f"{steps.cfg.seed}:{POSITIVE}"), 16))
            found.setdefault(arm, {})[share] = _positive(rows, scores, rng)
    return found


def _positive(
    rows: Sequence[Candidate], scores: Sequence[Score], rng: np.random.Generator
) -> Estimate:
    """The share of positive scores, siblings drawn together."""
    groups: dict[str, list[bool]] = {}
    for row, score in zip(rows, scores, strict=True):
        groups.setdefault(row.group, []).append(score.value > 0)
    counts = np.array([(sum(own), len(own)) for own in groups.values()], dtype=np.float64)
    mean = bootstrap.interval(counts, lambda drawn: float(np.divide(*drawn.sum(axis=0))), rng)
    return replace(mean, n=len(rows), unit="fraction")
