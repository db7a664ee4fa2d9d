"""Questions matched with the answers of one or two models."""

from __future__ import annotations

from collections.abc import Sequence

from influbench.errors import UserError
from influbench.records import Answer, Question


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
