"""Judges: an OpenAI-compatible endpoint, a local model by log-probability, recorded judgements."""

from __future__ import annotations

from influbench.judging.archive import Archive
from influbench.judging.making import ArchivedJudge, RecordedBackend, booked, build
from influbench.judging.protocol import Judge, JudgeConfig, Reply, Request, Usage

__all__ = [
    "Archive",
    "ArchivedJudge",
    "Judge",
    "JudgeConfig",
    "RecordedBackend",
    "Reply",
    "Request",
    "Usage",
    "booked",
    "build",
]
