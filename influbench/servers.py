"""What all who ask a server need: its address, the key, what it counted, when to ask again."""

from __future__ import annotations

import email.utils
import math
import time
from collections.abc import Mapping
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, ValidationError

from influbench.errors import UserError

Count = Annotated[int, Field(ge=0, lt=2**40)]
"""So many tokens; a server that says less or more says nonsense, and money would be made of it."""


class Counted(BaseModel):
    """What a server says that one answer took, in tokens."""

    prompt_tokens: Count = 0
    completion_tokens: Count = 0

    def uncounted(self, **prices: float) -> list[str]:
        """What has a price and was not counted: it would seem to cost nothing."""
        return [
            name for name, price in prices.items() if price and name not in self.model_fields_set
        ]


class _Answer(BaseModel):
    usage: Counted | None = None


def usage(answer: bytes) -> Counted | None:
    """What a server counted for an answer, whatever else is in it; None where that is unknown."""
    try:
        return _Answer.model_validate_json(answer).usage
    except ValidationError:
        return None


def checked_url(url: str, what: str) -> str:
    """An address that a request can go to.

    Raises:
        UserError: it is none; ``what`` it is the address of.
    """
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # half an IPv6 address, a port that is no number or too high
        fits = False
    if not fits or not url.isprintable() or " " in url:
        raise UserError(f"expected {what} as http(s)://host[:port]/v1, got {public(url)!r}")
    return url


def public(url: str) -> str:
    """The address without a user name, a password or a query."""
    scheme, slashes, rest = url.partition("://")
    host, slash, path = rest.partition("?")[0].partition("#")[0].partition("/")
    return f"{scheme}{slashes}{host.rpartition('@')[2]}{slash}{path}"


def sent(key: str, variable: str) -> str:
    """A key as a header can carry it: a file that was read into a variable ends its line.

    Raises:
        UserError: no header can; the key is not shown.
    """
    bare = key.strip()
    if not (bare.isascii() and bare.isprintable()):
        raise UserError(
            f"expected a key of printable ASCII characters in ${variable}, got others (line "
            "breaks, quotes of a text editor): copy it anew"
        )
    return bare


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait, from a number or a date; None where unclear."""
    value = headers.get("retry-after", "").strip()
    try:
        asked = float(value)
    except ValueError:
        try:
            asked = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):  # "soon", the year 999999
            return None
        return max(0.0, asked)
    return asked if 0 <= asked < math.inf else None
