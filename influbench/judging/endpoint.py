"""The address, the key and the replies of an OpenAI-compatible endpoint."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from influbench import servers
from influbench.errors import UserError
from influbench.judging.bill import Bill
from influbench.judging.protocol import JudgeConfig, Request
from influbench.servers import Counted

OPENAI_URL = "https://api.openai.com/v1"

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


class Completion(BaseModel):
    """What we need of a chat completion; anything else in it is ignored."""

    choices: list[Choice] = Field(min_length=1)
    usage: Counted
    """Without it nothing could be accounted for."""
    model: Any = None

    def answered_by(self) -> str:
        """What the endpoint calls the model that answered; empty where it does not say."""
        return self.model[:100] if isinstance(self.model, str) else ""


def highest_price(cfg: JudgeConfig, request: Request) -> float:
    """What a reply may cost at most, in US dollars: a token is at least a byte."""
    sent = sum(len(text.encode()) + 16 for _, text in request.messages)
    return cfg.price(sent, request.max_tokens)


def settle(bill: Bill, cfg: JudgeConfig, reply: bytes) -> None:
    """Books what a reply cost by its usage, whatever else is in it; without one it stays owed."""
    used = servers.usage(reply)
    if used is not None and not uncounted(cfg, used):
        bill.tokens = used.prompt_tokens, used.completion_tokens
        bill.money = cfg.price(*bill.tokens)


def never_there(error: BaseException) -> bool:
    """Whether a connection was never made."""
    return type(error).__name__ in ("ConnectError", "ConnectTimeout", "UnsupportedProtocol")


def uncounted(cfg: JudgeConfig, usage: Counted) -> str:
    """What an answer does not count though it has a price, in words; empty where nothing."""
    return " and ".join(
        usage.uncounted(prompt_tokens=cfg.prompt_price, completion_tokens=cfg.completion_price)
    )


def parameters(cfg: JudgeConfig, request: Request, top: int, token_limit: str) -> dict[str, Any]:
    """A request as the client takes it.

    Args:
        cfg: the judge's settings.
        request: what is asked.
        top: of how many first tokens the log-probabilities are asked for; 0: of none.
        token_limit: the name that the endpoint has for the limit of a reply's length.
    """
    asked: dict[str, Any] = {
        "model": cfg.model,
        "messages": [{"role": role, "content": text} for role, text in request.messages],
        "temperature": request.temperature,
        token_limit: request.max_tokens,
        "extra_body": cfg.extra,
    }
    return asked | ({"logprobs": True, "top_logprobs": top} if top else {})


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
    return servers.checked_url(url, "the judge's base_url")


def key(cfg: JudgeConfig, url: str) -> str:
    """The key for this address, empty where none is set and none is needed.

    OpenAI's key goes nowhere but where OpenAI's own client would send it.

    Raises:
        UserError: a key is needed and the environment has none.
    """
    if cfg.key_variable:
        if not os.environ.get(cfg.key_variable):
            raise UserError(f"expected the judge's key in ${cfg.key_variable}, which is not set")
        return servers.sent(os.environ[cfg.key_variable], cfg.key_variable)
    found = servers.sent(os.environ.get("INFLUBENCH_JUDGE_KEY", ""), "INFLUBENCH_JUDGE_KEY")
    if not found and url in (OPENAI_URL, os.environ.get("OPENAI_BASE_URL")):
        found = servers.sent(os.environ.get("OPENAI_API_KEY", ""), "OPENAI_API_KEY")
    if not found and url == OPENAI_URL:
        raise UserError(
            "a judge at OpenAI needs a key in $OPENAI_API_KEY or $INFLUBENCH_JUDGE_KEY; for a "
            "server of your own set base_url or $INFLUBENCH_JUDGE_URL"
        )
    return found
