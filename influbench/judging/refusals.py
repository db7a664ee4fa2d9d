"""What endpoints say when they refuse, in their own words, and how they can be asked instead."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass

from influbench.files import digest
from influbench.judging.protocol import JudgeConfig

USUAL_TOP = 20
"""Of how many tokens log-probabilities are asked for by default; others stand in the name."""

WITHHELD = "(withheld by the endpoint's content filter)"
"""Stands for a reply that a content filter held back: no verdict, and counted as such."""

_FILTERED = re.compile(
    r"content[ _-]?filter|content management policy|responsibleai|content[ _]policy"
    r"|data_inspection_failed|prohibited[ _]content|safety system",
    re.I,
)
_LOG_PROBABILITIES = re.compile(r"log[\s_-]*prob|logits", re.I)
_TOP = re.compile(r"top[\s_-]*log[\s_-]*prob", re.I)
_UNKNOWN = re.compile(
    r"unknown|unsupported|unrecogni|not? .{0,30}(support|allow|permit|enabl)", re.I
)
_NUMBER = re.compile(r"(?<![\w.])\d{1,3}(?![\w.]*\d)")
FEWER = (10, 5, 2)
"""What is tried where an endpoint takes fewer alternatives than asked for and does not say how
many."""


@dataclass(frozen=True, slots=True)
class Way:
    """How an endpoint is asked for a choice."""

    top: int
    """Of how many first tokens the log-probabilities are asked for; 0: the written text counts."""


def name(cfg: JudgeConfig, way: Way) -> str:
    """A judge's name, one a way of judging: model, label, ``text`` or ``top5``, parameters."""
    mark = "text" if not way.top else "" if way.top == USUAL_TOP else f"top{way.top}"
    extra = digest(json.dumps(cfg.extra, sort_keys=True))[:8] if cfg.extra else ""
    return ":".join([cfg.model, *(part for part in (cfg.label, mark, extra) if part)])


def note(cfg: JudgeConfig, way: Way) -> str:
    """What a reader of its scores must know; empty where nothing."""
    notes = ["a judge this small exercises the plumbing only"] if cfg.small else []
    if not way.top and cfg.logprobs == "auto":
        notes.append("the judge gives no log-probabilities: its written verdicts count, 0 or 1")
    elif way.top and way.top < cfg.top_logprobs:
        notes.append(f"the endpoint gives log-probabilities of {way.top} tokens only")
    return "; ".join(notes)


def recalled(cfg: JudgeConfig, known: Collection[str]) -> Way | None:
    """The way under whose name an archive has replies, the fullest first."""
    ways = [*(Way(top) for top in range(cfg.top_logprobs, 1, -1)), Way(0)]
    return next((way for way in ways if name(cfg, way) in known), None)


def filtered(code: int, said: str) -> bool:
    """Whether a content filter held the prompt or the reply back."""
    return 400 <= code < 500 and _FILTERED.search(said) is not None


def about_log_probabilities(code: int, said: str) -> bool:
    """Whether log-probabilities are what the endpoint refuses."""
    return (400 <= code < 500 or code == 501) and _LOG_PROBABILITIES.search(said) is not None


def instead(way: Way, said: str) -> Way:
    """The way to ask after ``way`` was refused with words about log-probabilities."""
    named = _TOP.search(said)
    if named is None:
        return Way(0)
    told = [int(n) for n in _NUMBER.findall(said[named.end() :]) if 2 <= int(n) < way.top]
    fewer = [n for n in FEWER if n < way.top]
    if told:
        return Way(max(told))
    return Way(fewer[0] if fewer and not _UNKNOWN.search(said) else 0)


def advice(code: int, said: str, *, model: str, variable: str) -> str:
    """What the user can do about a refusal."""
    if "temperature" in said and code == 400:
        return "give the temperature it takes: --set 'judge.extra={temperature: 1}'"
    return {
        401: f"check the key in {variable}",
        403: f"check the key in {variable} and what it may use",
        404: f"check the address and the model name '{model}'",
    }.get(code, "correct the judge's settings (--set judge.KEY=VALUE)")
