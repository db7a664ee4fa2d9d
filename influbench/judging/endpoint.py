"""The address, the key and the replies of an OpenAI-compatible endpoint."""

from __future__ import annotations

import email.utils
import math
import os
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, ValidationError

from influbench.errors import UserError
from influbench.judging.protocol import JudgeConfig

OPENAI_URL = "https://api.openai.com/v1"

Count = Annotated[int, Field(ge=0, lt=2**40)]
"""So many tokens; a server that says less or more says nonsense, and money would be made of it."""

ROUNDING = 1e-3
"""How far above 0 a log-probability may come by its rounding."""

LEAST = 0.01
"""Below this share for all choices together, the first token is not where the verdict stands."""


class TopToken(BaseModel):
    """One of the likeliest tokens at a position."""

    token: str
    logprob: float | None = None


class Position(BaseModel):
    """One written token; only its likeliest alternatives matter here."""

    token: str = ""
    top_logprobs: list[TopToken] | None = None


class Logprobs(BaseModel):
    """Position by position."""

    content: list[Position] | None = None


class Part(BaseModel):
    """A part of a content that is a list; thoughts are parts of another type."""

    type: str = "text"
    text: str | None = None


class Said(BaseModel):
    """The message of a choice; no content is a refusal."""

    content: str | list[Part | str] | None = None

    def text(self) -> str:
        """What was said, parts joined, thoughts left out."""
        if not isinstance(self.content, list):
            return self.content or ""
        return "".join(
            part if isinstance(part, str) else part.text or ""
            for part in self.content
            if isinstance(part, str) or part.type in ("text", "output_text")
        )


class Choice(BaseModel):
    """One answer."""

    message: Said
    finish_reason: str | None = None
    logprobs: Any = None

    def first_token(self) -> dict[str, float] | None:
        """Log-probabilities of the first token that can be seen, where the endpoint gave any."""
        try:
            positions = Logprobs.model_validate(self.logprobs or {}).content
        except ValidationError:  # another layout
            return None
        seen = next((p for p in positions or [] if p.token.strip()), None)
        position = seen or next(iter(positions or []), None)
        listed = (position.top_logprobs or []) if position else []
        top = {t.token: t.logprob for t in listed if t.logprob is not None}
        if max(top.values(), default=0.0) > ROUNDING:  # no logarithm of a probability
            return None
        return {token: value for token, value in top.items() if math.isfinite(value)} or None


class Tokens(BaseModel):
    """What the endpoint counted; without it nothing could be accounted for."""

    prompt_tokens: Count
    completion_tokens: Count = 0


class Completion(BaseModel):
    """What we need of a chat completion; anything else in it is ignored."""

    choices: list[Choice]
    usage: Tokens


def top_probabilities(choices: Sequence[str], top: Mapping[str, float]) -> tuple[float, ...] | None:
    """Probabilities of the choices from the log-probabilities of the first token.

    Choices that are not listed get 0 as long as one is, as in AlpacaEval. None where no choice is
    listed with a chance worth naming (the first token is no verdict but begins a thought or a
    sentence), or where a token may be the beginning of two choices ("1" of "10").
    """
    raw = [sum(math.exp(v) for t, v in top.items() if t.strip() == c) for c in choices]
    unsure = any(
        raw[i] and not raw[j] and other != choice and other.startswith(choice)
        for i, choice in enumerate(choices)
        for j, other in enumerate(choices)
    )
    if unsure or sum(raw) < LEAST:
        return None
    return tuple(p / sum(raw) for p in raw)


def address(cfg: JudgeConfig) -> str:
    """The endpoint's URL: from the settings, else the environment, else OpenAI's."""
    url = (
        cfg.base_url
        or os.environ.get("INFLUBENCH_JUDGE_URL")
        or os.environ.get("OPENAI_BASE_URL")
        or OPENAI_URL
    )
    return checked_url(url, "the judge's base_url")


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


def key(cfg: JudgeConfig, url: str) -> str:
    """The key for this address, empty where none is set and none is needed.

    OpenAI's key goes nowhere but where OpenAI's own client would send it.

    Raises:
        UserError: a key is needed and the environment has none.
    """
    if cfg.key_variable:
        if not os.environ.get(cfg.key_variable):
            raise UserError(f"expected the judge's key in ${cfg.key_variable}, which is not set")
        return sent(os.environ[cfg.key_variable], cfg.key_variable)
    found = sent(os.environ.get("INFLUBENCH_JUDGE_KEY", ""), "INFLUBENCH_JUDGE_KEY")
    if not found and url in (OPENAI_URL, os.environ.get("OPENAI_BASE_URL")):
        found = sent(os.environ.get("OPENAI_API_KEY", ""), "OPENAI_API_KEY")
    if not found and url == OPENAI_URL:
        raise UserError(
            "a judge at OpenAI needs a key in $OPENAI_API_KEY or $INFLUBENCH_JUDGE_KEY; for a "
            "server of your own set base_url or $INFLUBENCH_JUDGE_URL"
        )
    return found


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
