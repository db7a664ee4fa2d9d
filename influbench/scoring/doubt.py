"""Whether the scores of a run say anything about single candidates."""

from __future__ import annotations

from collections.abc import Sequence

from influbench.data.records import Score


def doubt(scores: Sequence[Score]) -> str:
    """What to say where most scores are smaller than their standard errors; else nothing."""
    known = [(abs(score.value), score.stderr) for score in scores if score.stderr is not None]
    small = sum(value < error for value, error in known)
    if 2 * small <= len(known):
        return ""
    return (
        f"{small:,} of {len(known):,} scores are smaller than their standard errors: which "
        "candidates help is mostly the luck of the references; give more of them"
    )
