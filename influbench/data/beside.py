"""Columns beside a conversation: its system prompt, its earlier turns, and what cannot be shown.

A row may hold part of its conversation in columns of their own: ``system`` or ``system_prompt``,
and ``history`` (a list of pairs, user and assistant, before the instruction). They become turns. A
column that a chat template would show and a turn cannot hold (tools, documents, images) is refused;
dropped without a word, it would leave another example than the one in the file. A column without
anything in it is a column that is not there.
"""

from __future__ import annotations

from influbench.data.conversations import (
    MEDIA,
    Chat,
    checked_text,
    empty,
    parsed,
    shown,
    system_text,
)
from influbench.data.records import Turn
from influbench.data.rows import Row

SYSTEM = ("system", "system_prompt", "system_message")
TOOLS = ("tools", "functions", "chat_template_kwargs")
"""What a template is told beside the turns: no part of what a user asks."""
ASKED = ("documents", *MEDIA)
"""What the user's question is about."""
EVERY = (*SYSTEM, "history", *TOOLS, *ASKED)


def with_columns(row: Row, chat: Chat) -> Chat:
    """The chat with the turns that stand in columns of their own.

    Raises:
        UserError: such a column is of another form or says what the chat says otherwise, or there
            is one that cannot be shown.
    """
    refuse_unseen(row, *TOOLS, *ASKED)
    earlier, asked, answer = chat
    own = tuple(turn for turn in earlier if turn[0] == "system")
    rest = tuple(turn for turn in earlier if turn[0] != "system")
    told, past = _system(row), history(row)
    if own and told and own[0][1].strip() != told[0][1].strip():
        raise row.refuse(
            "one system prompt", "one in a column and another in the conversation", "keep one"
        )
    if past and rest:
        raise row.refuse(
            "earlier turns in 'history' or in the conversation",
            "some in both",
            "put all into the conversation",
        )
    return (*(own or told), *past, *rest), asked, answer


def history(row: Row) -> tuple[Turn, ...]:
    """The earlier turns that are a column, oldest first; empty where there is none.

    Raises:
        UserError: they are not pairs of texts.
    """
    pairs = parsed(row.fields.get("history"))
    if empty(pairs):
        return ()
    turns: list[Turn] = []
    for number, pair in enumerate(pairs if isinstance(pairs, list) else [pairs]):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise row.refuse(
                "'history' to be a list of pairs of texts, [user, assistant]", shown(pair), "fix it"
            )
        for role, text in zip(("user", "assistant"), pair, strict=True):
            turns.append((role, checked_text(row, f"history[{number}].{role}", text)))
    return tuple(turns)


def refuse_unseen(row: Row, *names: str) -> None:
    """Refuses a row with something in one of the columns that would be left out.

    Raises:
        UserError: there is one.
    """
    found = next((name for name in names if not empty(row.fields.get(name))), None)
    if found:
        raise row.refuse(
            f"nothing in '{found}', which is not read here",
            shown(row.fields[found]),
            "leave the row out, or remove the field if the answer does not hang on it",
        )


def _system(row: Row) -> tuple[Turn, ...]:
    texts = {n: system_text(row, n) for n in SYSTEM if not empty(row.fields.get(n))}
    if len({text.strip() for text in texts.values()}) > 1:
        raise row.refuse("one system prompt", f"others in {sorted(texts)}", "keep one of them")
    return tuple(("system", text) for text in texts.values() if text)[:1]
