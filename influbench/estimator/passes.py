"""Reads what a method's facts say that it costs: ``(4 + probes)M``, ``3 + part of M``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from influbench.estimator.contract import Estimator


@dataclass(frozen=True)
class Spent:
    """Passes of the student (a backward counts two) and requests to the judge."""

    passes: float = 0.0
    encoder: float = 0.0
    """Passes of a sentence encoder, which are hardly any work."""
    requests: float = 0.0


def options_of(method: Estimator, warmup: float) -> dict[str, Any]:
    """A method's options as :func:`spent` takes them: no more warm-up examples than there are.

    Args:
        method: the estimator.
        warmup: W.
    """
    options, facts = dict(vars(method)), method.facts
    if facts.spends and "warmup" in facts.needs:
        options[facts.spends] = min(options[facts.spends], warmup)
    return options


def filled(told: str, options: Mapping[str, Any]) -> str:
    """A text of ``Facts.passes`` with numbers in place of options, for who has others."""
    numbers = {k: v for k, v in options.items() if isinstance(v, (int, float))}
    if not set(re.findall(r"[A-Za-z_]+", told)) & set(numbers):
        return told
    return re.sub(
        r"[A-Za-z_]+", lambda word: str(numbers.get(word[0], word[0])), _PRODUCT.sub("*", told)
    )


_PRODUCT = re.compile(r"(?<=[\d)A-Za-z])(?=\()|(?<=\d)(?=[A-Za-z])|(?<=\))(?=[A-Za-z])")


def spent(told: str, sizes: Mapping[str, float], options: Mapping[str, Any]) -> Spent | None:
    """What a text of ``Facts.passes`` stands for; None where it cannot be told beforehand.

    ``part of M`` is half of M: what it is, the method finds out.

    Args:
        told: the text.
        sizes: M and W.
        options: of the method; those that are numbers may stand in the text.

    Returns:
        Forward passes (a backward counts two), of an encoder where the text says so, or requests.
    """
    text = told.replace("part of ", "0.5*").strip()
    if found := re.fullmatch(r"(\d+) (requests?|encoder)", text):
        kind = "encoder" if found[2] == "encoder" else "requests"
        return Spent(**{kind: float(found[1])})
    numbers = {k: v for k, v in options.items() if isinstance(v, (int, float))}
    names = {**numbers, **sizes}
    words = re.split(r"([A-Za-z_]+)", _PRODUCT.sub("*", text))
    if any(w not in names for w in words[1::2]):
        return None
    plain = "".join(str(float(names[w])) if i % 2 else w for i, w in enumerate(words))
    if not re.fullmatch(r"[-+*().\d\se]+", plain):
        return None
    return Spent(passes=float(eval(plain, {"__builtins__": {}})))  # digits and signs
