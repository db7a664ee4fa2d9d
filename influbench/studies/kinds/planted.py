"""Do the estimators find planted bad candidates? AUC by kind, next to what each method costs."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from influbench.files import digest
from influbench.results import RunResult, blank_row
from influbench.store.session import Session
from influbench.studies import planted, scored_student
from influbench.studies.kind import Kind
from influbench.studies.scored_student import ScoredStudentConfig, load_sets, score_all

METRICS = ("auc", *(f"auc_{kind}" for kind in planted.KINDS), "paired")


class PlantedConfig(ScoredStudentConfig):
    """A student, and what it is shown."""

    kinds: tuple[str, ...] = Field(
        default=tuple(planted.KINDS), description="of bad candidates: see studies.planted"
    )


def check(cfg: PlantedConfig) -> None:
    """Refuses unknown methods and kinds, and too few candidates."""
    scored_student.check(cfg)
    planted.plant(load_sets(cfg).candidates, cfg.seed, cfg.kinds)


def run(cfg: PlantedConfig, session: Session, study: str, run_id: str) -> RunResult:
    """Plants bad candidates, lets every method score them, and tells what it found."""
    sets = load_sets(cfg)
    made = planted.plant(sets.candidates, cfg.seed, cfg.kinds)
    scored = score_all(cfg, sets, made.examples, session)
    rows = []
    for method in scored.scores:
        # The same draws for every method: differences between rows are not Monte Carlo.
        rng = np.random.default_rng(int(digest(f"planted:{cfg.seed}"), 16))
        found = planted.detect(scored.values(method), made.pairs, rng)
        rows += planted.result_rows(found, blank_row(study, run_id, method, cfg.seed))
    groups = {example.id: example.group for example in made.examples}
    return scored_student.result(cfg, scored, rows, groups, session, (study, run_id))


KIND = Kind(settings=PlantedConfig, check=check, run=run, metrics=METRICS)
