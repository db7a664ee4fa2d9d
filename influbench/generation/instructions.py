"""Asking for a new instruction, reading it, and the rules that drop one (no model here).

The task is Self-Instruct's (arXiv 2212.10560) as Montessori-Instruct uses it: the teacher sees
eight instructions and writes another. The wording is our own.
"""

from __future__ import annotations

import functools
import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydantic import Field

from influbench.config import Config

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

OPEN, CLOSE = "<instruction>", "</instruction>"

KEYWORDS = (
    *("image", "images", "graph", "graphs", "picture", "pictures", "file", "files"),
    *("map", "maps", "draw", "plot", "go to"),
)
"""What Self-Instruct and the paper's released code take for a task that text cannot do."""


class FilterConfig(Config):
    """The released code's rules for instructions, each off unless a run asks for it."""

    drop_keywords: bool = Field(default=False, description="words such as image, graph, map, plot")
    drop_long: bool = Field(default=False, description="more than 400 or at most 5 characters")
    drop_odd_start: bool = Field(
        default=False, description="first character is punctuation or not ASCII"
    )
    capitalize: bool = Field(
        default=False, description="first letter upper case, all others lower (names, code too)"
    )
    collapse_whitespace: bool = Field(default=False, description="line breaks become spaces")


def request(shots: Sequence[str]) -> str:
    """The user's turn that shows ``shots`` and asks for one more instruction."""
    shown = "\n".join(f"{OPEN}{shot}{CLOSE}" for shot in shots)
    return (
        "Write a list of different tasks that a person could give to an assistant, each between "
        f"{OPEN} and {CLOSE}.\n\n{shown}\n\nWrite the next task. It must differ from those above."
    )


def parse(completion: str, *, prefilled: bool, unclosed: bool = False) -> str | None:
    """The instruction in what the teacher wrote; None where there is no closed pair of tags.

    Args:
        completion: what the teacher wrote.
        prefilled: the opening tag was written for it.
        unclosed: whether the closing tag may be missing.
    """
    text = OPEN + completion if prefilled else completion
    head, closed, _ = text.partition(CLOSE)
    _, opened, instruction = head.rpartition(OPEN)
    return instruction.strip() if opened and (closed or unclosed) else None


def cleaned(instruction: str, filters: FilterConfig) -> str:
    """The instruction after the rewriting that ``filters`` ask for."""
    if filters.collapse_whitespace:
        instruction = re.sub(r"\s+", " ", instruction)
    return instruction.capitalize() if filters.capitalize else instruction


def reason_to_drop(instruction: str | None, filters: FilterConfig) -> str:
    """Why an instruction is no candidate; empty where nothing speaks against it."""
    if instruction is None:
        return "unparseable"
    if not instruction:
        return "empty"
    if filters.drop_long and not 5 < len(instruction) <= 400:
        return "length"
    if filters.drop_keywords and re.search(rf"\b({'|'.join(KEYWORDS)})\b", instruction, re.I):
        return "keyword"
    odd = instruction[0] in string.punctuation or not instruction[0].isascii()
    return "odd_start" if filters.drop_odd_start and odd else ""


@dataclass
class Novelty:
    """Instructions seen so far, and whether a new one is too much like one of them.

    Two are alike when the F-measure of Rouge-L is above the threshold. Pairs that cannot reach it,
    by their lengths or by the words that they share, are passed over without computing it.
    """

    threshold: float
    _seen: list[Counter[str]] = field(default_factory=list)
    _texts: list[str] = field(default_factory=list)
    _sizes: list[int] = field(default_factory=list)

    def add(self, instruction: str) -> None:
        """Takes note of an instruction."""
        words = _words(instruction)
        self._seen.append(Counter(words))
        self._sizes.append(len(words))
        self._texts.append(instruction)

    def known(self, instruction: str) -> bool:
        """Whether an instruction is too much like one seen before."""
        words = Counter(_words(instruction))
        size = words.total()
        for text, other, length in zip(self._texts, self._seen, self._sizes, strict=True):
            # F = 2 LCS / (m + n); the LCS is at most the shorter text and at most the shared words.
            floor = self.threshold * (size + length) / 2
            if min(size, length) < floor or (words & other).total() < floor:
                continue
            if _scorer().score(text, instruction)["rougeL"].fmeasure > self.threshold:
                return True
        return False


def _words(text: str) -> list[str]:
    """As ``rouge_score`` takes a text apart."""
    return re.findall(r"[a-z0-9]+", text.lower())


@functools.cache
def _scorer() -> RougeScorer:
    from rouge_score.rouge_scorer import RougeScorer  # a second: it imports all of nltk

    return RougeScorer(["rougeL"])
