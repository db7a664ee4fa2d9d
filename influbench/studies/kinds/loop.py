"""Runs of the whole loop: which estimator makes the better student, and at what cost?"""

from __future__ import annotations

from influbench.loop import pipeline, publish
from influbench.loop.settings import RunConfig
from influbench.results import RunResult
from influbench.store.session import Session
from influbench.studies.kind import Kind


def run(cfg: RunConfig, session: Session, study: str, run_id: str) -> RunResult:
    """One run, with all of its numbers."""
    return publish.result(pipeline.run(cfg, session), study, run_id)


KIND = Kind(settings=RunConfig, check=pipeline.check, run=run)
