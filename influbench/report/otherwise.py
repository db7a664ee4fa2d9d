"""What files of scores were scored otherwise than the oracle: told, since it moves agreement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from influbench.results.score_files import ScoreFile

OF_DATA = {
    "candidates": "other candidates",
    "reference": "other references",
    "student": "another student",
}
OF_STEP = {
    "hangs_on": "another step (its optimizer, learning rate or clipping)",
    "max_length": "examples cut at another length",
    "learn": "other turns that learn",
    "objective": "another objective",
    "dtype": "weights of another dtype",
}
"""What ``F.meta.json`` tells of a score -> what is said where two files differ in it."""


def differing(oracle: ScoreFile, others: Sequence[ScoreFile]) -> list[str]:
    """A line a fact in which files differ from the oracle's, with their names."""
    lines: list[str] = []
    for fact, words in OF_DATA.items():
        looked = [f for f in others if fact != "student" or _looks_at_student(f)]
        odd = [f.name for f in looked if _other_rows(oracle.about, f.about, fact)]
        if odd:
            lines.append(f"scored with {words} than {oracle.name}: {', '.join(odd)}")
    for fact, words in OF_STEP.items():
        odd = [f.name for f in others if _otherwise(oracle.about, f.about, fact)]
        if odd:
            lines.append(f"scored with {words} than {oracle.name}: {', '.join(odd)}")
    return lines


def _looks_at_student(file: ScoreFile) -> bool:
    return bool(set(file.about.get("needs", ())) - {"judge", "warmup"})


def _other_rows(own: Mapping[str, Any], other: Mapping[str, Any], fact: str) -> bool:
    """Whether two files say that they looked at other rows; their order plays no part."""
    a, b = own.get(fact, {}), other.get(fact, {})
    key = "rows" if a.get("rows") and b.get("rows") else "digest"
    return bool(a.get(key)) and a[key] != b.get(key, a[key])


def _otherwise(own: Mapping[str, Any], other: Mapping[str, Any], fact: str) -> bool:
    """Whether two files state the fact, and not the same.

    A default objective is not stated; a method without moments hangs on no step.
    """
    if fact == "objective":
        return bool(own and other) and own.get(fact, "nll") != other.get(fact, "nll")
    if fact not in own or fact not in other:
        return False
    if fact == "hangs_on" and None in (own[fact], other[fact]):
        return False
    return own[fact] != other[fact]
