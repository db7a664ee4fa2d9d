"""What others recorded: outputs of a baseline, difficulties of prompts, preferences."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from influbench.data import ALIASES
from influbench.data.beside import with_columns
from influbench.data.conversations import asked_turns, check_text_alone, empty
from influbench.data.doubled import same_asked
from influbench.data.examples import claim_id, instruction, row_id
from influbench.data.records import Answer, Example, Question, Turn
from influbench.data.rows import Row, read_rows
from influbench.errors import UserError
from influbench.evaluation.length_control import Gamed

_PREFERENCES = (
    "instruction, output_1, output_2 and preference (1 = output_1 … 2 = output_2), or a prompt "
    "(instruction, prompt or conversations), chosen and rejected"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Preference:
    """Two outputs and how probably the first is the better one, according to the record."""

    id: str
    instruction: str
    output_1: str
    output_2: str
    first: float
    """In [0, 1]; 0.5 is a tie."""


def read_outputs(path: Path, questions: Sequence[Question]) -> tuple[str, list[Answer]]:
    """A file of outputs in AlpacaEval's format (instruction, output, generator).

    Args:
        path: the file; may hold more than is asked for.
        questions: of one turn; an output belongs to the one with the same instruction.

    Returns:
        The generator's name and its answers, one a question.

    Raises:
        UserError: a row is of another form, the rows are of two generators or answer one
            instruction twice, or a question has no output.
    """
    rows = read_rows(path)
    generators = sorted({_generator(row) for row in rows})
    if len(generators) > 1:
        raise UserError(
            f"{path}: expected the outputs of one generator, got those of "
            f"{', '.join(name or 'rows that name none' for name in generators)}: keep the rows of "
            "one of them"
        )
    outputs: dict[str, str] = {}
    places: dict[str, str] = {}
    for row in rows:
        text = instruction(row)
        if text in outputs:
            raise row.refuse(
                "every instruction once",
                f"{text[:60]!r} again (first at {places[text]})",
                "keep one output of it",
            )
        outputs[text], places[text] = _output(row), row.where
    missing = [q for q in questions if q.turns[0] not in outputs]
    if missing:
        raise UserError(
            f"{path}: expected an output for each of the {len(questions)} prompts, {len(missing)} "
            f"have none, first '{missing[0].id}' ({missing[0].turns[0][:60]!r}): outputs are "
            "matched by their instruction, word for word"
        )
    return generators[0] or path.stem, [_answer(q, outputs[q.turns[0]]) for q in questions]


def own_outputs(questions: Sequence[Question], source: str) -> list[Answer]:
    """The outputs that come with the prompts; AlpacaEval's are GPT-4's, its own baseline.

    Raises:
        UserError: a prompt has none.
    """
    for question in questions:
        if not question.reference:
            raise UserError(
                f"prompt '{question.id}' of {source} has no output of its own to compare with: "
                "give --baseline, a model or a file of outputs (instruction, output, generator)"
            )
    return [_answer(q, q.reference[0]) for q in questions if q.reference]


def difficulties(source: str, path: Path, questions: Sequence[Question]) -> dict[str, float]:
    """The difficulty of each question, from a table.

    Args:
        source: where the questions come from, as ``data.evaluation`` says it.
        path: rows of ``instruction_difficulty`` and either ``instruction`` or ``index``, the
            prompt's place in the source, from 0.
        questions: whose difficulty is wanted.

    Raises:
        UserError: a row is of another form, or a question has no difficulty.
    """
    by_text: dict[str, float] = {}
    by_place: dict[int, float] = {}
    for row in read_rows(path):
        value = _number(row, "instruction_difficulty")
        if isinstance(row.fields.get("instruction"), str):
            by_text[instruction(row)] = value
        else:
            by_place[int(_number(row, "" if "" in row.fields else "index"))] = value
    found = {q.id: by_text[q.turns[0]] for q in questions if q.turns[0] in by_text}
    found |= _by_place(source, by_place, questions)
    return _complete(found, questions, path)


def gamed_difficulties(
    source: str, gamed: Gamed, path: Path, questions: Sequence[Question]
) -> dict[str, float]:
    """The difficulty of each question in the hub's table, by its place among the 805 prompts.

    Raises:
        UserError: a question has none: the source is not AlpacaEval's, in its order.
    """
    return _complete(_by_place(source, gamed.by_index, questions), questions, path)


def read_preferences(source: str | Path, limit: int | None = None) -> list[Preference]:
    """Preferences from a file or a hub data set.

    Raises:
        UserError: a row is of neither form, holds a null where a text should be, or has the id of
            an earlier one.
    """
    found: list[Preference] = []
    seen: dict[str, str] = {}
    for row in read_rows(source, limit):
        preference = _preference(row)
        claim_id(preference.id, row, seen)
        found.append(preference)
    return found


def _by_place(
    source: str, table: dict[int, float], questions: Sequence[Question]
) -> dict[str, float]:
    if not table:
        return {}
    plain = re.sub(r":first\d+$", "", source)
    rows = read_rows(ALIASES.get(plain, plain))
    places = {row_id(row, "id", "question_id", "prompt_id"): row.position for row in rows}
    return {q.id: table[places[q.id]] for q in questions if places[q.id] in table}


def _complete(
    found: dict[str, float], questions: Sequence[Question], path: Path
) -> dict[str, float]:
    missing = [q.id for q in questions if q.id not in found]
    if missing:
        raise UserError(
            f"{path}: expected the difficulty of each of the {len(questions)} prompts, "
            f"{len(missing)} have none, first '{missing[0]}'"
        )
    return found


def _answer(question: Question, text: str) -> Answer:
    return Answer(
        id=question.id, category=question.category, turns=question.turns, responses=(text,)
    )


def _generator(row: Row) -> str:
    value = row.fields.get("generator")
    if value is not None and not isinstance(value, str):
        raise row.refuse("a name in 'generator'", repr(value)[:60], "make it text")
    return (value or "").strip()


def _output(row: Row) -> str:
    output = row.fields.get("output")
    if not isinstance(output, str):  # an empty one is an answer, too
        raise row.refuse(
            "instruction and output, as in AlpacaEval's files", f"{sorted(row.fields)}", "add them"
        )
    return output


def _number(row: Row, name: str) -> float:
    try:
        return float(row.fields[name])
    except (KeyError, TypeError, ValueError) as error:
        raise row.refuse(
            f"a number in '{name}'", f"{row.fields.get(name)!r}", "see evaluation.difficulty"
        ) from error


def _preference(row: Row) -> Preference:
    fields = row.fields
    if {"output_1", "output_2", "preference"} <= fields.keys():
        value = fields["preference"]
        try:
            preference = float("nan") if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            preference = float("nan")
        if not 1 <= preference <= 2:
            raise UserError(
                f"{row.where}: expected a preference from 1 (output_1) to 2 (output_2), got "
                f"{value!r}"
            )
        return Preference(
            id=row_id(row, "id"),
            instruction=_asked(row, "instruction"),
            output_1=_output_text(row, "output_1"),
            output_2=_output_text(row, "output_2"),
            first=2.0 - preference,
        )
    forms = [n for n in ("instruction", "prompt", "conversations") if n in fields]
    given = [n for n in forms if not empty(fields[n])] or forms[:1]
    if not given or not {"chosen", "rejected"} <= fields.keys():
        raise UserError(f"{row.where}: expected {_PREFERENCES}, got {sorted(fields)}")
    return Preference(
        id=row_id(row, "id"),
        instruction=same_asked(row, {name: _asked(row, name) for name in given}),
        output_1=_output_text(row, "chosen"),
        output_2=_output_text(row, "rejected"),
        first=1.0,
    )


def _asked(row: Row, name: str) -> str:
    """All that the outputs answer, as a judge reads it: the question, or turns under headings."""
    value = row.fields[name]
    turns: tuple[Turn, ...]
    if isinstance(value, list) and len(value) > 1:
        turns = asked_turns(row, name)
    elif name == "instruction":
        turns = (("user", instruction(row)),)
    else:
        turns = (("user", _output_text(row, name)),)
    earlier, text, _ = with_columns(row, (turns[:-1], turns[-1][1], ""))
    return Example(id="", instruction=text, response="", earlier=earlier).question


def _output_text(row: Row, name: str) -> str:
    """Text as it is, an empty one too, or the last message of a conversation."""
    value = row.fields[name]
    if isinstance(value, list) and value:
        value = value[-1]
    if isinstance(value, dict):
        check_text_alone(row, name, value)
        value = value.get("content", value.get("value"))
    if not isinstance(value, str):
        got = "nothing (null)" if value is None else f"{type(value).__name__} {str(value)[:60]!r}"
        raise row.refuse(f"text in '{name}'", got, "fill it in or remove the row")
    return value
