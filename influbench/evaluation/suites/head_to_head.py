"""Head to head between two students: win, tie or lose (figure 4 of the paper).

The judge sees both orders; where its two verdicts disagree, the item is a tie. Our own wording of
the public pairwise prompt of MT-Bench (Zheng et al. 2023, arXiv 2306.05685), which compares one
turn of a conversation, with reference answers for math, reasoning and coding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from influbench.data.records import Answer, Outcome, Question
from influbench.evaluation.questions import matched, reference_block, shown_conversation
from influbench.evaluation.suite import Marks, Needs, Numbers, Sitting, VerdictConfig, verdicts
from influbench.judging import written
from influbench.judging.protocol import Judge, Reply, Request
from influbench.statistics.estimate import Estimate
from influbench.statistics.outcomes import by_item, summarise, values

Verdict = Literal["A", "B", "C"]
VERDICTS: tuple[Verdict, ...] = ("A", "B", "C")
RESULTS = ("win", "tie", "lose")

SYSTEM = (
    "You are an impartial judge of two AI assistants who answered the same user. Decide whose "
    "answer to the {turn} follows the user's instructions and answers the question better. "
    "{criteria} Do not let the order in which the answers are shown, their length or the "
    "assistants' names influence you. {ending}"
)
GENERAL = "Consider helpfulness, relevance, accuracy, depth, creativity and level of detail."
REFERENCED = (
    "Consider correctness and helpfulness: you are given a reference answer; compare both answers "
    "with it, and identify and correct mistakes."
)
WRITTEN = (
    "First compare the two answers in a short explanation. Then give your verdict in exactly this "
    "form: "
    '"[[A]]" if assistant A is better, "[[B]]" if assistant B is better, "[[C]]" for a tie.'
)
CHOSEN = (
    "Reply with one letter and nothing else: A if assistant A is better, B if assistant B is "
    "better, C for a tie."
)


class HeadToHead:
    """The suite ``head_to_head``: the first turn, against the baseline's answers."""

    name = "head_to_head"
    needs = Needs(turns="one", judge=True, baseline="answers")

    def mark(self, sitting: Sitting) -> Marks:
        """See :func:`compare`."""
        answers = sitting.answers("one"), sitting.baseline_answers("one")
        outcomes = sitting.judged(STAGE, sitting.material.prompts, *answers)
        return Marks(outcomes, self.numbers(outcomes))

    def numbers(self, outcomes: Sequence[Outcome]) -> Numbers:
        """Shares ``win``, ``tie`` and ``lose`` in percent; empty if none was judged."""
        return shares(outcomes) if len(values(outcomes, "win")) else {}


def compare(
    questions: Sequence[Question],
    answers: Sequence[Answer],
    other_answers: Sequence[Answer],
    judge: Judge,
    *,
    turn: int = 0,
) -> list[Outcome]:
    """Who answered one turn better, question by question.

    Outcomes of each question: ``win``, ``tie`` and ``lose`` of ``answers`` (one of them is 1);
    ``disagreement``, 1 where the two orders' verdicts differ; ``first``, the share of the two
    verdicts for the answer shown first (0.5 without position bias); ``unparseable``, the share of
    replies without a verdict, in which case only that is given. Equal answers tie without asking.

    Args:
        questions: what was asked.
        answers: of the one model.
        other_answers: of the other model.
        judge: who decides.
        turn: which turn is compared, from 0; earlier turns are shown.

    Raises:
        UserError: a question lacks an answer or its reference, or the judge fails.
    """
    ours = matched(questions, answers, "the first model")
    theirs = matched(questions, other_answers, "the second model")
    asked: list[tuple[int, Request]] = []
    for index, (question, a, b) in enumerate(zip(questions, ours, theirs, strict=True)):
        if a.responses[: turn + 1] != b.responses[: turn + 1]:
            asked.append((index, _request(question, a, b, judge, turn)))
            asked.append((index, _request(question, b, a, judge, turn)))
    replies = judge.ask([request for _, request in asked])
    verdicts: dict[int, list[Verdict | None]] = {}
    for (index, _), reply in zip(asked, replies, strict=True):
        verdicts.setdefault(index, []).append(parse(reply))
    return [
        Outcome(metric=metric, item=question.id, value=value, category=question.category)
        for index, question in enumerate(questions)
        for metric, value in _numbers(verdicts.get(index))
    ]


def shares(outcomes: Sequence[Outcome]) -> dict[str, Estimate]:
    """Shares of ``win``, ``tie`` and ``lose`` in percent, with standard errors over questions."""
    return {
        result: summarise(list(by_item(outcomes, result).values()), "percent", 100.0)
        for result in RESULTS
    }


def parse(reply: Reply) -> Verdict | None:
    """The verdict of a reply: the likeliest letter, else the written one."""
    if reply.probabilities is not None:
        return VERDICTS[int(np.argmax(reply.probabilities))]
    named = written.choice(reply.text, VERDICTS)
    return None if named is None else VERDICTS[VERDICTS.index(named)]


def _request(question: Question, a: Answer, b: Answer, judge: Judge, turn: int) -> Request:
    reference = reference_block(question, turn)
    written = judge.grading == "text"
    system = SYSTEM.format(
        turn="user's question" if turn == 0 else "last of the user's questions",
        criteria=REFERENCED if reference else GENERAL,
        ending=WRITTEN if written else CHOSEN,
    )
    conversations = [
        shown_conversation(f"Assistant {name}", question, answer.responses, turn)
        for name, answer in (("A", a), ("B", b))
    ]
    return Request(
        id=f"{question.id}:turn{turn + 1}",
        messages=(("system", system), ("user", reference + "\n\n".join(conversations))),
        choices=() if written else VERDICTS,
        max_tokens=2048 if written else 4,
        answers=(a.responses[turn], b.responses[turn]),
    )


def _numbers(verdicts: list[Verdict | None] | None) -> list[tuple[str, float]]:
    if verdicts is None:
        return [("win", 0.0), ("tie", 1.0), ("lose", 0.0), ("unparseable", 0.0)]
    missing = sum(verdict is None for verdict in verdicts) / len(verdicts)
    if missing:
        return [("unparseable", missing)]
    straight, swapped = verdicts
    result = {("A", "B"): "win", ("B", "A"): "lose"}.get((str(straight), str(swapped)), "tie")
    agree = (straight, swapped) in (("A", "B"), ("B", "A"), ("C", "C"))
    first = sum({"A": 1.0, "B": 0.0, "C": 0.5}[str(verdict)] for verdict in verdicts) / 2
    return [
        *((name, float(name == result)) for name in RESULTS),
        ("disagreement", float(not agree)),
        ("first", first),
        ("unparseable", 0.0),
    ]


def _duel(
    _: VerdictConfig,
    judge: Judge,
    questions: Sequence[Question],
    answers: Sequence[Answer],
    baseline: Sequence[Answer],
) -> list[Outcome]:
    return compare(questions, answers, baseline, judge)


STAGE = verdicts("head_to_head", 2, _duel)
