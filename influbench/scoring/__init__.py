"""Estimator × student × candidates -> scores, in resumable chunks."""

from __future__ import annotations

from influbench.scoring.stage import (
    FACTS,
    STAGE,
    MethodConfig,
    check_lengths,
    hold,
    score,
    share_of_scores,
)

__all__ = ["FACTS", "STAGE", "MethodConfig", "check_lengths", "hold", "score", "share_of_scores"]
