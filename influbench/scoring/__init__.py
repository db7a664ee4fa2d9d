"""Estimator × student × candidates -> scores, in resumable chunks."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from influbench.scoring.driver import Scored, score_candidates
    from influbench.scoring.holding import check_lengths, hold
    from influbench.scoring.settings import ORACLE, MethodConfig, ScoringSettings
    from influbench.scoring.stage import FACTS, STAGE, resolved_options, score, share_of_scores

_HOMES = {
    "FACTS": "stage",
    "ORACLE": "settings",
    "STAGE": "stage",
    "MethodConfig": "settings",
    "Scored": "driver",
    "ScoringSettings": "settings",
    "check_lengths": "holding",
    "hold": "holding",
    "resolved_options": "stage",
    "score": "stage",
    "score_candidates": "driver",
    "share_of_scores": "stage",
}
"""Where each name is; loaded when it is first used, so that settings need no torch."""

__all__ = [
    "FACTS",
    "ORACLE",
    "STAGE",
    "MethodConfig",
    "Scored",
    "ScoringSettings",
    "check_lengths",
    "hold",
    "resolved_options",
    "score",
    "score_candidates",
    "share_of_scores",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
