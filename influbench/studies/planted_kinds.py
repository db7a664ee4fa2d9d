"""The kinds of planted bad candidates: each maker gives (control, bad) pairs.

Makers get the examples in an order made from their ids, so that taking turns is no property of the
texts. What each kind holds constant stands in ``influbench.studies.planted``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from influbench.data.records import Example
from influbench.files import digest

MIN_WORDS = 6
"""Shorter responses are not shuffled, cut or repeated: too little would remain to be seen."""

Pairs = Iterator[tuple[Example, Example]]

_WORD = re.compile(r"\S+")
_SENTENCE_END = re.compile(r"[.!?][\"')]*(?=\s)")
_NUMBER = re.compile(r"\d+")
_LIST_MARKER = re.compile(r"^\s*\d+[.)]", re.MULTILINE)


def shuffled(examples: Sequence[Example], seed: int) -> Pairs:
    """The response's words in random order; whitespace stays where it is."""
    for example in examples:
        words = _WORD.findall(example.response)
        if len(set(words)) < MIN_WORDS:
            continue
        order = [words[i] for i in _generator("shuffled", seed, example).permutation(len(words))]
        taken = iter(order)
        yield (
            _clean(example),
            _bad(example, "shuffled", _WORD.sub(lambda _: next(taken), example.response)),  # noqa: B023
        )


def truncated(examples: Sequence[Example], seed: int) -> Pairs:  # noqa: ARG001
    """Cut in mid-sentence, against cut after a whole sentence."""
    longer = False
    for example in examples:
        text = example.response.strip()
        ends = [0, *(m.end() for m in _SENTENCE_END.finditer(text)), len(text)]
        middle = (len(ends) - 1) // 2
        if middle < 1:
            continue
        start, end, after = ends[middle - 1 : middle + 2]
        cut = _nearest_gap(text, (end + after) // 2 if longer else (start + end) // 2)
        between = (end < cut < after) if longer else (start < cut < end)
        if not between or not text[:cut].strip():
            continue
        longer = not longer
        control = replace(
            _clean(example), id=f"{example.id}:truncated-control", response=text[:end]
        )
        yield control, _bad(example, "truncated", text[:cut].rstrip())


def off_topic(examples: Sequence[Example], seed: int) -> Pairs:  # noqa: ARG001
    """Responses of neighbours in length swapped; one is left out where there is no partner."""
    left = sorted(examples, key=lambda e: len(e.response))
    while left:
        one = left.pop(0)
        other = next((e for e in left if not e.group or e.group != one.group), None)
        if other is None:
            continue
        left.remove(other)
        for example, stranger in ((one, other), (other, one)):
            yield _clean(example), _bad(example, "off_topic", stranger.response)


def repeated(examples: Sequence[Example], seed: int) -> Pairs:  # noqa: ARG001
    """One half of the response twice; which half, and a little longer or shorter, take turns."""
    turn = 0
    for example in examples:
        text = example.response.strip()
        if len(_WORD.findall(text)) < MIN_WORDS:
            continue
        second, longer = divmod(turn % 4, 2)
        gaps = [m.start() for m in re.finditer(r"\s+", text)]
        sizes = {gap: len(text) - gap - 1 if second else gap for gap in gaps}
        fits = {g: 2 * n + 1 for g, n in sizes.items() if (2 * n + 1 > len(text)) == bool(longer)}
        if not fits:
            continue
        turn += 1
        gap = min(fits, key=lambda g: abs(fits[g] - len(text)))
        half = text[gap + 1 :] if second else text[:gap]
        yield _clean(example), _bad(example, "repeated", f"{half.strip()} {half.strip()}")


def wrong_answer(examples: Sequence[Example], seed: int) -> Pairs:
    """Numbers that the instruction does not name replaced by others with as many digits."""
    for example in examples:
        given = set(_NUMBER.findall(example.instruction))
        markers = {m.end() - 2 for m in _LIST_MARKER.finditer(example.response)}
        rng = _generator("wrong_answer", seed, example)
        wrong: dict[str, str] = {}

        def other(found: re.Match[str]) -> str:
            number = found.group()
            if number in given or found.end() - 1 in markers:  # noqa: B023
                return number
            return wrong.setdefault(number, _other_number(number, rng))  # noqa: B023

        changed = _NUMBER.sub(other, example.response)
        if wrong:
            yield _clean(example), _bad(example, "wrong_answer", changed)


KINDS: Mapping[str, Callable[[Sequence[Example], int], Pairs]] = {
    "shuffled": shuffled,
    "truncated": truncated,
    "off_topic": off_topic,
    "repeated": repeated,
    "wrong_answer": wrong_answer,
}


def _generator(kind: str, seed: int, example: Example) -> np.random.Generator:
    return np.random.default_rng(int(digest(f"{kind}:{seed}:{example.id}"), 16))


def _clean(example: Example) -> Example:
    return replace(example, group=example.id)


def _bad(example: Example, kind: str, response: str) -> Example:
    return replace(example, id=f"{example.id}:{kind}", group=example.id, response=response)


def _nearest_gap(text: str, position: int) -> int:
    """Start of the whitespace nearest to a position; 0 where there is none."""
    gaps = [m.start() for m in re.finditer(r"\s+", text)]
    return min(gaps, key=lambda gap: abs(gap - position), default=0)


def _other_number(number: str, rng: np.random.Generator) -> str:
    """Another number of as many digits, none of them zero in front."""
    while True:
        digits = [str(rng.integers(1, 10)), *(str(rng.integers(10)) for _ in number[1:])]
        if "".join(digits) != number:
            return "".join(digits)
