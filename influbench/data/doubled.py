"""Rows that hold an example twice: a question and an answer beside a chat, or two names for one.

Exports often do, and mostly both say the same. Where they do not, nobody can tell which is meant:
such a row is refused, not read in an order that its author never heard of. A column that is null or
blank is a column that is not there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest

from influbench.data.beside import with_columns
from influbench.data.conversations import (
    WHOLE,
    Chat,
    chat_in,
    conversation,
    empty,
    openings,
    parsed,
)
from influbench.data.records import Turn
from influbench.data.rows import Row
from influbench.errors import UserError

ANSWERS = {"instruction": ("response", "output"), "question": ("response", "answer")}
"""Columns of a question, and those of its answer."""
ASKED = (*ANSWERS, "prompt")
SAID = ("response", "output", "completion")
"""What a row says again of its chat; an ``answer`` may be the short one of a long response."""


def named(row: Row, *names: str) -> str | None:
    """The first of ``names`` that the row has; None where it has none.

    Raises:
        UserError: it has several, and they differ.
    """
    found = [name for name in names if _there(row, name)]
    for other in found[1:]:
        if not _alike(row.fields[found[0]], row.fields[other]):
            raise differ(row, found[0], other)
    return found[0] if found else None


def example(row: Row, pair: Callable[[Row], Chat]) -> Chat:
    """The row's chat, in whichever columns it stands, with the turns in columns beside it.

    Args:
        row: any.
        pair: reads a question and its answer.

    Raises:
        UserError: it stands in none, or in several that differ, or cannot be read.
    """
    asked = next((a for a, own in ANSWERS.items() if _whole(row, a, own)), None)
    forms = [*([asked] if asked else []), *held(row)]
    forms += ["prompt"] if _whole(row, "prompt", ("completion",)) else []
    if not forms:
        told = None if row.fields.get("instruction") is not None else conversation(row)
        return with_columns(row, told or pair(row))
    chats = [with_columns(row, pair(row) if n == asked else chat_in(row, n)) for n in forms]
    for name, chat in zip(forms[1:], chats[1:], strict=True):
        turns = zip_longest(_turns(chats[0]), _turns(chat), fillvalue=("", "nothing"))
        for (role, text), (other_role, other) in turns:
            if role != other_role or not _alike(text, other):
                raise differ(row, forms[0], name, (text, other))
    _check_alone(row, forms, chats[0])
    return chats[0]


def held(row: Row) -> list[str]:
    """The columns in which a whole chat stands."""
    lists = {name: parsed(row.fields.get(name)) for name in WHOLE}
    return [n for n, chat in lists.items() if isinstance(chat, list) and not empty(chat)]


def differ(row: Row, one: str, other: str, texts: Sequence[object] = ()) -> UserError:
    """The error for a row in which two columns say different things, by default all of theirs."""
    said = texts or (row.fields[one], row.fields[other])
    return row.refuse(
        f"the same in '{one}' and '{other}'",
        " and ".join(f"{str(text)[:60]!r}" for text in said),
        "keep the one that is meant",
    )


def same_asked(row: Row, texts: Mapping[str, str]) -> str:
    """The first of what columns ask; one may show it inside a template.

    Args:
        row: any.
        texts: by column, one or more.

    Raises:
        UserError: of two texts neither has the other in it.
    """
    (first, text), *others = texts.items()
    for name, other in others:
        if not _within(text, other):
            raise differ(row, first, name, (text, other))
    return text


def asked_alike(row: Row, instruction: str) -> str:
    """The row's instruction, beside whichever chats and prompt the row has too.

    Raises:
        UserError: one of them asks something else, or cannot be read.
    """
    prompt = {"prompt": row.fields["prompt"]} if _text(row, "prompt") else {}
    chats = openings(row, *held(row))
    return same_asked(row, {"instruction": instruction, **chats, **prompt})


def check_answer(row: Row, name: str, answer: str) -> None:
    """Refuses another answer than the row's in a column of text.

    Raises:
        UserError: there is one.
    """
    if isinstance(row.fields.get(name), str) and not _alike(row.fields[name], answer):
        raise row.refuse(
            f"the row's answer in '{name}'",
            f"{row.fields[name][:60]!r} beside {answer[:60]!r}",
            "keep the one that is meant",
        )


def _check_alone(row: Row, forms: Sequence[str], chat: Chat) -> None:
    """Refuses questions and answers that stand alone, and in no turn of the row's chat."""
    questions = [text for role, text in _turns(chat) if role != "assistant"]
    answers = [text for role, text in _turns(chat) if role == "assistant"]
    for name in ASKED:
        asked = _text(row, name) if name not in forms else ""
        if asked and not any(_within(asked, own) for own in questions):
            raise differ(row, name, forms[0])
    for name in SAID:
        said = _text(row, name)
        if said and not any(_alike(said, own) for own in answers):
            raise differ(row, name, _answer_of(row, forms[0]))


def _text(row: Row, name: str) -> str:
    """What a column says; empty where it is none of text."""
    value = row.fields.get(name)
    return value.strip() if isinstance(value, str) else ""


def _answer_of(row: Row, form: str) -> str:
    own = (*ANSWERS.get(form, ()), *(("completion",) if form == "prompt" else ()))
    return next((name for name in own if _there(row, name)), form)


def _whole(row: Row, asked: str, answers: Sequence[str]) -> bool:
    return _there(row, asked) and any(_there(row, name) for name in answers)


def _there(row: Row, name: str) -> bool:
    value = row.fields.get(name)
    return value is not None and not (isinstance(value, str) and not value.strip())


def _alike(one: object, other: object) -> bool:
    """Whether two values are the same but for blanks, with which columns are joined in any way."""
    if isinstance(one, str) and isinstance(other, str):
        return one.split() == other.split()
    return one == other


def _within(one: str, other: str) -> bool:
    one, other = " ".join(one.split()), " ".join(other.split())
    return one in other or other in one


def _turns(chat: Chat) -> list[Turn]:
    earlier, asked, answer = chat
    return [*earlier, ("user", asked), ("assistant", answer)]
