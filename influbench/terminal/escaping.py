"""The door to the terminal: foreign text (ids, names, replies, errors) cannot write to it.

Whatever is printed goes through :func:`console`, which shows control characters, escape sequences
and marks that turn the writing direction as what they are. In tables, foreign text is put in by
:func:`cell`, which also takes away the meaning of rich's markup.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from rich.console import Console
from rich.text import Text

_SHOWN_AS_CODE = {"Cc", "Cf", "Zl", "Zp", "Cs", "Co"}
"""Unicode categories of what acts on the terminal or cannot be seen."""
_SUSPECT = re.compile(r"[^\x20-\x7e\n]")


def plain(text: str) -> str:
    r"""The text with everything that could act on a terminal as its code, such as ``\x1b``.

    Line breaks stay; letters, accents, emoji and every script stay as they are.
    """
    return _SUSPECT.sub(lambda found: _code(found[0]), text)


def line(text: str) -> str:
    r"""As :func:`plain`, on one line: line breaks are shown as ``\n``."""
    return plain(text).replace("\n", r"\n")


def cell(value: object) -> Text:
    """A foreign text as a table's cell, title or caption; rich's markup means nothing in it."""
    return Text(line(str(value)))


def console(**settings: Any) -> Console:
    """The console of every command, on stdout unless ``stderr`` is set."""
    return _Guarded(emoji=False, **settings)


class _Guarded(Console):
    """Rich's console, whose strings are made plain before they are measured and drawn."""

    def render_str(self, text: str, **settings: Any) -> Text:
        return super().render_str(plain(text), **settings)


def _code(character: str) -> str:
    if unicodedata.category(character) not in _SHOWN_AS_CODE:
        return character
    # The joiner holds emoji and Indic letters together; it moves nothing.
    if character in "\u200c\u200d":
        return character
    return character.encode("unicode_escape").decode()
