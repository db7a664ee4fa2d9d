"""Questions put together with their answers, and how such a conversation is shown to a judge."""

from __future__ import annotations

from collections.abc import Sequence

from influbench.data.records import Answer, Question
from influbench.errors import UserError

REFERENCED_CATEGORIES = frozenset({"math", "reasoning", "coding"})
"""Where the judge must be given a reference answer, as in the public protocol."""


def shown_conversation(
    who: str, question: Question, responses: Sequence[str], turn: int, said: str = "Assistant"
) -> str:
    """The turns up to ``turn``, marked off from the rest of the prompt.

    Args:
        who: whose conversation it is, for the marks.
        question: what was asked.
        responses: the answers, one a turn.
        turn: the last turn shown, from 0.
        said: what the answers are headed with.
    """
    turns = [
        f"### User\n{asked}\n\n### {said}\n{answered}"
        for asked, answered in zip(question.turns[: turn + 1], responses, strict=False)
    ]
    return "\n\n".join([f"<<< {who}: start >>>", *turns, f"<<< {who}: end >>>"])


def reference_block(question: Question, turn: int) -> str:
    """The reference answers up to ``turn``, or nothing where the category needs none.

    Raises:
        UserError: the category needs a reference and the question has none.
    """
    if question.category not in REFERENCED_CATEGORIES:
        return ""
    if question.reference is None or len(question.reference) <= turn:
        raise UserError(
            f"question '{question.id}' ({question.category}): expected a reference answer to each "
            f"of its {len(question.turns)} turns, since {sorted(REFERENCED_CATEGORIES)} are graded "
            f"against one: give the questions with their references"
        )
    return (
        shown_conversation("Reference", question, question.reference, turn, "Reference answer")
        + "\n\n"
    )


def matched(questions: Sequence[Question], answers: Sequence[Answer], whose: str) -> list[Answer]:
    """The answer to each question, in the order of the questions.

    Args:
        questions: what was asked.
        answers: in any order; may hold more than is asked for.
        whose: the model, for the error message.

    Raises:
        UserError: a question has no answer, or not one a turn.
    """
    found = {answer.id: answer for answer in answers}
    out: list[Answer] = []
    for question in questions:
        answer = found.get(question.id)
        if answer is None:
            raise UserError(
                f"expected an answer of {whose} to question '{question.id}', there is none: "
                f"generate the answers to exactly these questions first"
            )
        if len(answer.responses) != len(question.turns):
            raise UserError(
                f"expected {len(question.turns)} responses of {whose} to question '{question.id}', "
                f"got {len(answer.responses)}"
            )
        out.append(answer)
    return out
