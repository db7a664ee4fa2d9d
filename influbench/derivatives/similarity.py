"""From vectors of candidates and references to one score a candidate."""

from __future__ import annotations

from typing import Literal

import numpy as np

from influbench.estimator import Array, Scores

Aggregate = Literal["mean", "max"]


def cosine_scores(candidates: Array, references: Array, aggregate: Aggregate) -> Scores:
    """Mean or maximum over references of the cosine.

    Args:
        candidates: shape [candidate, width], rows of length 1.
        references: shape [reference, width], rows of length 1.
        aggregate: how references are put together; only a mean has a standard error.
    """
    cosines = candidates @ references.T
    if aggregate == "max":
        return Scores(value=cosines.max(axis=1))
    return mean_over_references(cosines)


def mean_over_references(each: Array, diagnostics: dict[str, float] | None = None) -> Scores:
    """Scores whose value is the mean over references, with its standard error.

    Args:
        each: shape [candidate, reference].
        diagnostics: kept with the scores.
    """
    count = each.shape[1]
    return Scores(
        value=each.mean(axis=1),
        stderr=each.std(axis=1, ddof=1) / np.sqrt(count) if count > 1 else None,
        per_reference=each,
        diagnostics=diagnostics or {},
    )
