"""Chats in users' rows as turns: ``messages``, ShareGPT ``conversations``, ``prompt`` + completion.

A system turn may come first; then user and assistant take turns, and the assistant has the last
word.
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

Chat = tuple[tuple[Turn, ...], str, str]
"""Earlier turns, the last user's text, and the answer to it."""


def conversation(row: Row) -> Chat | None:
    """The row's chat, if it is one.

    Raises:
        UserError: a turn is malformed, or the turns are not in an order that can be learnt from.
    """
    for name in ("messages", "conversations", "conversation"):
        if row.fields.get(name) is not None:
            return _chat(row, name, _listed(row, name))
    prompt, completion = (row.fields.get(name) for name in ("prompt", "completion"))
    if prompt is None or completion is None:
        return None
    asked = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
    said = (
        completion
        if isinstance(completion, list)
        else [{"role": "assistant", "content": completion}]
    )
    return _chat(row, "prompt", [*asked, *said])


def opening(row: Row) -> str | None:
    """What the user asks first in the row's chat, answered or not; None where it is no chat.

    Raises:
        UserError: a turn is malformed, or no user speaks.
    """
    prompt = row.fields.get("prompt")
    if isinstance(prompt, str):
        return checked_text(row, "prompt", prompt)
    for name in ("messages", "conversations", "conversation", "prompt"):
        if row.fields.get(name) is not None:
            turns = (_turn(row, name, message) for message in _listed(row, name))
            asked = next((text for role, text in turns if role == "user"), None)
            if asked is None:
                raise row.refuse(f"a user's turn in '{name}'", "none", "leave the row out")
            return asked
    return None


def _listed(row: Row, name: str) -> list[Any]:
    given = row.fields[name]
    if isinstance(given, str) and given.lstrip().startswith("["):  # a table's cell
        try:
            given = json.loads(given)
        except ValueError:
            given = row.fields[name]
    if not isinstance(given, list):
        raise row.refuse(_form(name), _shown(given), "change it")
    return given


def _chat(row: Row, name: str, messages: list[Any]) -> Chat:
    turns = [turn for turn in (_turn(row, name, m) for m in messages) if turn != ("system", "")]
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


def _turn(row: Row, name: str, message: Any) -> Turn:
    if not isinstance(message, dict):
        raise row.refuse(_form(name), _shown(message), "change it")
    said_by, text = (
        next((message[key] for key in keys if message.get(key) is not None), None)
        for keys in (("role", "from"), ("content", "value"))
    )
    if said_by is None or not {"content", "value"} & message.keys():
        raise row.refuse(_form(name), _shown(message), "change it")
    role = ROLES.get(said_by) if isinstance(said_by, str) else None
    if role is None:
        raise row.refuse(
            f"roles among {sorted(ROLES)} in '{name}'",
            f"'{said_by}'",
            "tools and other roles are not supported: leave the row out",
        )
    if text is None and message.get("tool_calls"):
        raise row.refuse(f"text in '{name}.{role}'", "a tool call", "leave the row out")
    if isinstance(text, list):
        text = _joined(row, name, text)
    if role == "system" and isinstance(text, str) and not text.strip():
        return "system", ""
    return role, checked_text(row, f"{name}.{role}", text)


def _joined(row: Row, name: str, parts: list[Any]) -> str:
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise row.refuse(f"parts of text in '{name}'", _shown(parts), "leave out images and sound")
    return "".join(map(str, texts))


def checked_text(row: Row, name: str, value: Any) -> str:
    """``value`` if it is text with something in it.

    Raises:
        UserError: it is not.
    """
    if not isinstance(value, str):
        raise row.refuse(f"text in '{name}'", _shown(value), "make it text")
    if not value.strip():
        raise row.refuse(f"text in '{name}'", "an empty one", "fill it in or remove the row")
    return value


def _form(name: str) -> str:
    own = "'from' and 'value'" if name.startswith("conversation") else "'role' and 'content'"
    return f"'{name}' to be a list of objects with {own}"


def _shown(value: Any) -> str:
    return f"{type(value).__name__} {str(value)[:60]!r}"
