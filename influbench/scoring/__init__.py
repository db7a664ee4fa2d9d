"""Estimator × student × candidates -> scores, in resumable chunks."""

from __future__ import annotations

from influbench.scoring.doubt import doubt
from influbench.scoring.driver import ORACLE, Scored, score_candidates
from influbench.scoring.holding import check_lengths, hold
from influbench.scoring.settings import MethodConfig, ScoringSettings
from influbench.scoring.stage import FACTS, STAGE, resolved_options, score, share_of_scores

__all__ = [
    "FACTS",
    "ORACLE",
    "STAGE",
    "MethodConfig",
    "Scored",
    "ScoringSettings",
    "check_lengths",
    "doubt",
    "hold",
    "resolved_options",
    "score",
    "score_candidates",
    "share_of_scores",
]
