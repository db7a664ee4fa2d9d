"""Chats in users' rows as turns: ``messages``, ShareGPT ``conversations``, ``prompt`` + completion.

A system turn may come first; then user and assistant take turns, and the assistant has the last
word. A turn is a role and a text: one that holds something else, too (a tool call, a thought in a
field of its own, an image), is refused, as its text alone would be another turn.
"""

from __future__ import annotations

import json
from typing import Any

from influbench.data.records import Turn
from influbench.data.rows import Row

ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "chatgpt", "bot"), "assistant"),
}
"""Who speaks, by what data sets call it."""

MEDIA = ("image", "images", "audio", "audios", "video", "videos")
TEXTS = ("text", "input_text", "output_text")
"""What parts of a turn are called that are text."""
BESIDE = {
    **dict.fromkeys(("tool_calls", "function_call"), "a tool call"),
    **dict.fromkeys(("tools", "functions"), "tools"),
    **dict.fromkeys(("reasoning_content", "reasoning", "thinking"), "a thought beside the text"),
    **dict.fromkeys(MEDIA, "what is no text"),
}
"""Fields of a turn that templates show, and what stands in them."""
_NOTHING = ("", "[]", "{}", "null")
"""What a table's cell has for an empty value."""
WHOLE = ("messages", "conversations", "conversation")
"""Columns that hold a chat, its answer too."""

Chat = tuple[tuple[Turn, ...], str, str]
"""Earlier turns, the last user's text, and the answer to it."""


def conversation(row: Row) -> Chat | None:
    """The row's chat, if it is one.

    Raises:
        UserError: a turn is malformed or holds more than text, or the turns are not in an order
            that can be learnt from.
    """
    for name in WHOLE:
        if row.fields.get(name) is not None:
            return chat_in(row, name)
    prompt, completion = (row.fields.get(name) for name in ("prompt", "completion"))
    return None if prompt is None or completion is None else chat_in(row, "prompt")


def chat_in(row: Row, name: str) -> Chat:
    """The chat in one of ``WHOLE``, or in ``prompt`` and ``completion``.

    Raises:
        UserError: as :func:`conversation`.
    """
    if name != "prompt":
        return _chat(row, name, _places(name, _listed(row, name)))
    if not isinstance(row.fields["prompt"], list):
        _refuse_input(row)
    asked, said = _part_of(row, "prompt", "user"), _part_of(row, "completion", "assistant")
    return _chat(row, "prompt", [*asked, *said])


def openings(row: Row, *names: str) -> dict[str, str]:
    """What the user asks first in the chats of a row, answered or not, by column.

    Args:
        row: any.
        *names: columns with a list of turns, or ``prompt``, which may be one text; those without
            anything are passed over.

    Raises:
        UserError: a turn is malformed or holds more than text, or no user speaks.
    """
    found: dict[str, str] = {}
    for name in names:
        given = row.fields.get(name)
        if given is None or empty(given):
            continue
        if name == "prompt" and isinstance(given, str):
            _refuse_input(row)
            found[name] = checked_text(row, name, given)
            continue
        places = _places(name, _listed(row, name))
        turns = (_turn(row, place, message) for place, message in places)
        asked = next((text for role, text in turns if role == "user"), None)
        if asked is None:
            raise row.refuse(f"a user's turn in '{name}'", "none", "leave the row out")
        found[name] = asked
    return found


def asked_turns(row: Row, name: str) -> tuple[Turn, ...]:
    """The turns of a list that ends with the question.

    Raises:
        UserError: a turn is malformed or holds more than text, or the last is not the user's.
    """
    read = (_turn(row, place, message) for place, message in _places(name, _listed(row, name)))
    turns = tuple(turn for turn in read if turn != ("system", ""))
    if not turns or turns[-1][0] != "user":
        raise row.refuse(
            f"the user's turn last in '{name}'", f"roles {[role for role, _ in turns]}", "fix it"
        )
    return turns


def system_text(row: Row, name: str) -> str:
    """A system prompt in a column of its own, read as the content of a system turn is."""
    text = row.fields[name]
    if isinstance(text, list):
        text = _joined(row, name, text)
    blank = isinstance(text, str) and not text.strip()
    return "" if blank else checked_text(row, name, text)


def empty(value: Any) -> bool:
    """Whether there is nothing in a value, however deep: exports fill in fields that rows lack."""
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, dict):
            left += item.values()
        elif isinstance(item, list | tuple):
            left += item
        elif item is not None and not (isinstance(item, str) and item.strip() in _NOTHING):
            return False
    return True


def parsed(value: Any) -> Any:
    """A list that a table's cell holds as text; anything else as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _refuse_input(row: Row) -> None:
    """Beside an ``instruction``, these are part of it; a ``prompt`` is whole."""
    for name in ("input", "context"):
        if not empty(row.fields.get(name)):
            raise row.refuse(
                f"the whole question in 'prompt', nothing in '{name}'",
                shown(row.fields[name]),
                f"rename to instruction, {name} and response, or put it into the prompt",
            )


def _listed(row: Row, name: str) -> list[Any]:
    given = parsed(row.fields[name])
    if not isinstance(given, list):
        raise row.refuse(
            f"'{name}' to be a list of {_form(name, 'objects')}", shown(given), "fix it"
        )
    return given


def _places(name: str, messages: list[Any]) -> list[tuple[str, Any]]:
    return [(f"{name}[{number}]", message) for number, message in enumerate(messages)]


def _part_of(row: Row, name: str, role: str) -> list[tuple[str, Any]]:
    """The turns of a field that is a list of them, or one text of ``role``."""
    given = row.fields[name]
    if isinstance(given, list):
        return _places(name, given)
    return [(name, {"role": role, "content": given})]


def _chat(row: Row, name: str, messages: list[tuple[str, Any]]) -> Chat:
    read = (_turn(row, place, message) for place, message in messages)
    turns = [turn for turn in read if turn != ("system", "")]
    roles = [role for role, _ in turns]
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    if not spoken or spoken != ["user", "assistant"] * (len(spoken) // 2):
        raise row.refuse(
            f"user and assistant in turn in '{name}', the assistant last (a system turn may come "
            "first)",
            f"roles {roles}",
            "cut the chat after an answer and leave out what stands before the first user turn",
        )
    return tuple(turns[:-2]), turns[-2][1], turns[-1][1]


def _turn(row: Row, place: str, message: Any) -> Turn:
    if not isinstance(message, dict):
        raise row.refuse(f"'{place}' to be {_form(place, 'an object')}", shown(message), "fix it")
    said_by, text = (
        next((message[key] for key in keys if message.get(key) is not None), None)
        for keys in (("role", "from"), ("content", "value"))
    )
    if said_by is None or not {"content", "value"} & message.keys():
        raise row.refuse(f"'{place}' to be {_form(place, 'an object')}", shown(message), "fix it")
    role = ROLES.get(said_by) if isinstance(said_by, str) else None
    if role is None:
        raise row.refuse(
            f"a role among {sorted(ROLES)} in '{place}'",
            f"'{said_by}'",
            "tools and other roles are not supported: leave the row out",
        )
    check_text_alone(row, f"{place}.{role}", message)
    weight = message.get("weight")
    if role == "assistant" and weight not in (None, 1):
        raise row.refuse(
            f"a turn that learns in '{place}.{role}'",
            f"'weight' {shown(weight)}",
            "remove the field, and set scoring.learn=last if only the last answer is to learn",
        )
    if isinstance(text, list):
        text = _joined(row, place, text)
    if role == "system" and isinstance(text, str) and not text.strip():
        return "system", ""
    return role, checked_text(row, f"{place}.{role}", text)


def check_text_alone(row: Row, place: str, message: dict[str, Any]) -> None:
    """Refuses a turn that holds more than its text.

    Raises:
        UserError: there is a tool call, a thought, an image … in a field of its own.
    """
    for name, what in BESIDE.items():
        if not empty(message.get(name)):
            raise row.refuse(f"text alone in '{place}'", f"{what} ('{name}')", "leave the row out")


def _joined(row: Row, place: str, parts: list[Any]) -> str:
    """The text of a turn in parts, all of which are text."""
    texts = [_part(part) for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise row.refuse(
            f"parts of text in '{place}'", shown(parts), "leave out images, sound and thoughts"
        )
    return "".join(map(str, texts))


def _part(part: Any) -> Any:
    if not isinstance(part, dict):
        return part
    return part.get("text") if part.get("type") in (None, *TEXTS) else None


def checked_text(row: Row, name: str, value: Any) -> str:
    """``value`` if it is text with something in it.

    Raises:
        UserError: it is not.
    """
    if not isinstance(value, str):
        raise row.refuse(f"text in '{name}'", shown(value), "make it text")
    if not value.strip():
        raise row.refuse(f"text in '{name}'", "an empty one", "fill it in or remove the row")
    return value


def shown(value: Any) -> str:
    """A value of the wrong kind in an error message: its type and how it begins."""
    return f"{type(value).__name__} {str(value)[:60]!r}"


def _form(name: str, what: str) -> str:
    own = "'from' and 'value'" if name.startswith("conversation") else "'role' and 'content'"
    return f"{what} with {own}"
