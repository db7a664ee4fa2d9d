"""Useful rows and others of equal length: the material of positive controls with a known truth.

Useful rows come from the source that the references come from; the others from one about other
things. Each useful row stands beside an other row whose response has about as many tokens, so that
length says nothing and mixtures of any share have as much to learn.
"""

from __future__ import annotations

import functools
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace

from pydantic import Field

from influbench import models
from influbench.config import Config
from influbench.data import load_examples
from influbench.data.records import Example
from influbench.errors import UserError
from influbench.files import digest
from influbench.models import ModelConfig


class MixtureConfig(Config):
    """Two sources of instruction-response pairs."""

    useful: str = Field(description="file or hub name, such as openai/gsm8k: references too")
    other: str = Field(description="file or hub name, such as tatsu-lab/alpaca")
    longest: int = Field(
        default=160, ge=1, description="rows with more response tokens take no part"
    )


Size = Callable[[Example], int]
"""How many tokens a row's response has."""


def sizes(student: ModelConfig) -> Size:
    """Response tokens as the student reads them, each counted once."""
    tokenizer = models.load_tokenizer(models.resolve(student.name, student.revision))

    @functools.cache
    def size(row: Example) -> int:
        return len(tokenizer(row.response, add_special_tokens=False).input_ids)

    return size


def drawn(source: str, longest: int, seed: int, size: Size) -> list[Example]:
    """The rows of a source in an order that ids and seed fix; ids carry the file's name."""
    rows = [e for e in load_examples(source) if size(e) <= longest]
    return sorted(rows, key=lambda e: digest(f"mixture:{seed}:{e.id}"))


def beside(useful: Sequence[Example], others: Sequence[Example], size: Size) -> list[Example]:
    """For each useful row an other one, each once, whose response is the nearest in tokens.

    Raises:
        UserError: fewer others than useful rows.
    """
    if len(others) < len(useful):
        raise UserError(
            f"expected at least {len(useful)} rows of the other source, got {len(others)}: give a "
            "larger file, raise longest, or lower the counts"
        )
    left = sorted(others, key=lambda e: (size(e), digest(e.id)))
    found: list[Example] = []
    for row in useful:
        place = bisect_left(left, size(row), key=size)
        near = [n for n in (place - 1, place) if 0 <= n < len(left)]
        best = min(near, key=lambda n, row=row: abs(size(left[n]) - size(row)))
        found.append(left.pop(best))
    return found


def split(rows: Sequence[Example], *counts: int) -> list[list[Example]]:
    """Disjoint parts of these sizes, in the order of the rows.

    Raises:
        UserError: too few rows.
    """
    if len(rows) < sum(counts):
        raise UserError(
            f"expected {sum(counts)} rows of the useful source, got {len(rows)}: give a larger "
            "file, raise longest, or lower the counts"
        )
    parts: list[list[Example]] = []
    start = 0
    for count in counts:
        parts.append(list(rows[start : start + count]))
        start += count
    return parts


def named(rows: Sequence[Example], name: str) -> list[Example]:
    """The rows with ids that say which side they are of."""
    return [replace(row, id=f"{name}:{row.id}", group="") for row in rows]
