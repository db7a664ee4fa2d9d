"""Questions for evaluation: users' turns alone, with an answer to each where the row has one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from influbench.data import doubled
from influbench.data.beside import EVERY, refuse_unseen
from influbench.data.conversations import checked_text
from influbench.data.examples import claim_id, instruction, response, row_id
from influbench.data.records import Question
from influbench.data.rows import Row


def category(row: Row) -> str:
    """What kind of question a row says that it is; empty where it does not."""
    # AlpacaEval names the data set that a prompt came from.
    return str(row.fields.get("category") or row.fields.get("dataset") or "")


def questions(rows: Sequence[Row]) -> list[Question]:
    """The rows as questions.

    Raises:
        UserError: a row is of no such layout, or holds what a question has no place for.
    """
    seen: dict[str, str] = {}
    found: list[Question] = []
    for row in rows:
        question = _question(row)
        claim_id(question.id, row, seen)
        found.append(question)
    return found


def _question(row: Row) -> Question:
    """FastChat's layout, the hub's (``prompt`` for turns), or an instruction-response row."""
    refuse_unseen(row, *EVERY)  # a question has users' turns alone
    layouts = [n for n in ("turns", "prompt") if isinstance(row.fields.get(n), list)]
    turns: tuple[str, ...]
    reference: tuple[str, ...] | None
    if layout := doubled.named(row, *layouts):
        turns = tuple(checked_text(row, layout, turn) for turn in row.fields[layout])
        reference = _answers(row, "reference", row.fields.get("reference") or [])
        if not turns or (reference and len(reference) != len(turns)):
            raise row.refuse(
                "one or more turns, and a reference answer for each or none",
                f"{len(turns)} turns and {len(reference or ())} answers",
                "complete the row",
            )
        if row.fields.get("instruction"):
            doubled.same_asked(row, {layout: turns[0], "instruction": instruction(row)})
    else:
        turns = (doubled.asked_alike(row, instruction(row)),)
        answered = any(row.fields.get(n) is not None for n in ("response", "output"))
        answered = answered or (row.fields.get("question") and row.fields.get("answer"))
        reference = (response(row),) if answered else None
    return Question(
        id=row_id(row, "id", "question_id", "prompt_id"),
        category=category(row),
        turns=turns,
        reference=reference,
    )


def _answers(row: Row, name: str, values: Any) -> tuple[str, ...] | None:
    """A text a turn, empty where MT-Bench has none for that turn; None where it has none at all."""
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise row.refuse(f"a list of texts in '{name}'", repr(values)[:60], "change it")
    return tuple(values) if any(values) else None


def published_answers(rows: Iterable[Row]) -> dict[str, tuple[str, ...] | None]:
    """Answers by question id, from FastChat's layout: ``choices[0].turns``.

    Raises:
        UserError: a row is of another layout.
    """
    found: dict[str, tuple[str, ...] | None] = {}
    for row in rows:
        try:
            turns = row.fields["choices"][0]["turns"]
        except (KeyError, IndexError, TypeError) as error:
            raise row.refuse(
                "'choices' with 'turns' in the first, as in FastChat's reference_answer files",
                f"fields {sorted(row.fields)}",
                "check data.question_answers",
            ) from error
        found[row_id(row, "question_id", "id")] = _answers(row, "turns", turns)
    return found
