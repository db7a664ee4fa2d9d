"""MT-Bench (Zheng et al. 2023, arXiv 2306.05685): two-turn questions, each answer graded 1 to 10.

Our own wording of the public prompts. Math, reasoning and coding are graded against a reference
answer; the second turn is graded on the whole conversation.

Two ways of grading. ``text`` is the public protocol: an explanation, then ``[[grade]]``.
``probability`` asks for the grade alone and takes its expectation over the judge's probabilities of
1 to 10: for local judges, which write badly, and of finer resolution. The two are not comparable;
a judge's name tells which is its own (local judges begin with "local:").
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import numpy as np

from influbench.data.records import Answer, Outcome, Question
from influbench.errors import UserError
from influbench.evaluation.questions import matched, reference_block, shown_conversation
from influbench.evaluation.suite import Marks, Needs, Numbers, Sitting, VerdictConfig, verdicts
from influbench.judging import written
from influbench.judging.protocol import Judge, Reply, Request
from influbench.statistics.estimate import Estimate
from influbench.statistics.outcomes import values

Grading = Literal["text", "probability"]
GRADES = tuple(str(grade) for grade in range(1, 11))
UNIT = "grade 1-10"

GENERAL = (
    "Consider the helpfulness, relevance, accuracy, depth, creativity and level of detail of the "
    "answer."
)
REFERENCED = (
    "Consider the correctness and helpfulness of the answer: you are given a reference answer; "
    "compare the assistant's answer with it, and identify and correct mistakes."
)
SYSTEM = (
    "You are an impartial judge of an AI assistant's answer to a user. {criteria} {focus}Be as "
    "objective as you can. {ending}"
)
LAST_TURN = "Grade only the answer to the last of the user's questions. "
WRITTEN = (
    "Begin with a short explanation. Then rate the answer from 1 to 10 in exactly this form: "
    '"[[rating]]", for example: "Rating: [[5]]".'
)
CHOSEN = "Reply with the rating alone: a whole number from 1 (worst) to 10 (best), nothing else."


class MTBench:
    """The suite ``mt_bench``."""

    name = "mt_bench"
    needs = Needs(turns="two", judge=True)

    def mark(self, sitting: Sitting) -> Marks:
        """See :func:`grade`."""
        outcomes = sitting.judged(STAGE, sitting.material.questions, sitting.answers("two"))
        return Marks(outcomes, self.numbers(outcomes))

    def numbers(self, outcomes: Sequence[Outcome]) -> Numbers:
        """``grade`` over all turns, ``grade_N`` a turn, ``grade/CATEGORY``; empty if none read."""
        metrics = {outcome.metric for outcome in outcomes}
        turns = sorted(int(m[6:]) for m in metrics if re.fullmatch(r"grade_\d+", m))
        if not turns:
            return {}
        return {
            "grade": score(outcomes),
            **{f"grade_{turn}": score(outcomes, turn) for turn in turns},
            **{f"grade/{name}": found for name, found in by_category(outcomes).items() if name},
        }


def grade(
    questions: Sequence[Question],
    answers: Sequence[Answer],
    judge: Judge,
    *,
    grading: Grading | None = None,
) -> list[Outcome]:
    """Grades every turn of every answer.

    Outcomes of each question: ``grade_1``, ``grade_2`` …, one a turn that has a grade;
    ``unparseable``, the share of its turns without one; with ``probability`` grading also
    ``from_text``, the share of turns where the judge offered no probabilities and its written
    number counted.

    Args:
        questions: with references in math, reasoning and coding.
        answers: of the model under test.
        judge: who grades.
        grading: None = the judge's own way (endpoints write, local models give probabilities).

    Raises:
        UserError: a question lacks an answer or its reference, or the judge fails.
    """
    way = grading or judge.grading
    matches = matched(questions, answers, "the student")
    requests = [
        grade_request(question, answer, turn, way)
        for question, answer in zip(questions, matches, strict=True)
        for turn in range(len(question.turns))
    ]
    replies = iter(judge.ask(requests))
    out: list[Outcome] = []
    for question in questions:
        said = [next(replies) for _ in question.turns]
        grades = [grade_of(reply) for reply in said]
        numbers = [(f"grade_{n}", g) for n, g in enumerate(grades, 1) if g is not None]
        numbers.append(("unparseable", sum(g is None for g in grades) / len(grades)))
        if way == "probability":
            written = sum(reply.probabilities is None for reply in said)
            numbers.append(("from_text", written / len(said)))
        out += [
            Outcome(metric=metric, item=question.id, value=value, category=question.category)
            for metric, value in numbers
        ]
    return out


def grade_request(question: Question, answer: Answer, turn: int, grading: Grading) -> Request:
    """The question to the judge about one turn, from 0."""
    reference = reference_block(question, turn)
    written = grading == "text"
    system = SYSTEM.format(
        criteria=REFERENCED if reference else GENERAL,
        focus=LAST_TURN if turn else "",
        ending=WRITTEN if written else CHOSEN,
    )
    shown = shown_conversation("Conversation", question, answer.responses, turn)
    return Request(
        id=f"{question.id}:turn{turn + 1}",
        messages=(("system", system), ("user", reference + shown)),
        choices=() if written else GRADES,
        max_tokens=2048 if written else 4,
        answers=(answer.responses[turn],),
    )


def grade_of(reply: Reply) -> float | None:
    """The grade in a reply, None where there is none from 1 to 10."""
    if reply.probabilities is not None:
        return float(np.dot(np.arange(1, 11), reply.probabilities))
    return written.grade(reply.text, len(GRADES))


def score(outcomes: Sequence[Outcome], turn: int | None = None) -> Estimate:
    """Mean grade over all turns, or over one (from 1); the standard error is over questions.

    Raises:
        UserError: nothing was graded.
    """
    wanted = re.compile(r"grade_\d+" if turn is None else rf"grade_{turn}")
    grades: dict[str, list[float]] = {}
    for outcome in outcomes:
        if wanted.fullmatch(outcome.metric):
            grades.setdefault(outcome.item, []).append(outcome.value)
    if not grades:
        raise UserError(
            "expected at least one grade: the judge gave none that could be read "
            f"({values(outcomes, 'unparseable').mean():.0%} of its replies had no [[number]])"
            if len(outcomes)
            else "expected MT-Bench outcomes, got none"
        )
    counts = np.array([len(found) for found in grades.values()])
    sums = np.array([sum(found) for found in grades.values()])
    mean = float(sums.sum() / counts.sum())
    stderr = None
    if len(grades) > 1:
        # Turns of a question are not independent: the ratio estimator's error over questions.
        errors = (sums - mean * counts) / counts.mean()
        stderr = float(np.sqrt(np.sum(errors**2) / (len(grades) - 1) / len(grades)))
    return Estimate(value=mean, stderr=stderr, n=len(grades), unit=UNIT)


def by_category(outcomes: Sequence[Outcome]) -> dict[str, Estimate]:
    """The mean grade of each category that has one, for the radar plot."""
    graded = sorted({o.category for o in outcomes if o.metric.startswith("grade_")})
    return {name: score([o for o in outcomes if o.category == name]) for name in graded}


def _grade(
    _: VerdictConfig, judge: Judge, questions: Sequence[Question], answers: Sequence[Answer]
) -> list[Outcome]:
    return grade(questions, answers, judge)


STAGE = verdicts("grade", 2, _grade)
