"""Does an estimator see what helps? Rows of the references' own kind among rows of another.

The first link of the chain: the truth is known without a training. A number is the area under the
ROC curve: the chance that a useful row scores above another one; 0.5 is chance, ties count one
half. Intervals draw rows of both sides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import Field

from influbench.data.records import Example
from influbench.estimator import registry
from influbench.files import digest
from influbench.models.templates import check_template
from influbench.results import RunResult, blank_row, row_of
from influbench.statistics import bootstrap
from influbench.statistics.estimate import Estimate
from influbench.store.session import Session
from influbench.studies import mixtures, scored_student
from influbench.studies.kind import Kind
from influbench.studies.mixtures import MixtureConfig
from influbench.studies.scored_student import ScoredStudentConfig, Sets, score_all


class SeesConfig(ScoredStudentConfig):
    """A student, and rows of two sources; half of candidates and warm-up are useful."""

    mixture: MixtureConfig
    num_references: int = Field(default=32, ge=2)


def load(cfg: SeesConfig) -> Sets:
    """Candidates, warm-up set and references, disjoint.

    Raises:
        UserError: a source is too small.
    """
    told = cfg.mixture
    half, warm = cfg.num_candidates // 2, cfg.num_warmup // 2
    size = mixtures.sizes(cfg.student)
    useful = mixtures.drawn(told.useful, told.longest, cfg.seed, size)
    candidates, warmup, reference = mixtures.split(useful, half, warm, cfg.num_references)
    others = mixtures.beside(
        [*candidates, *warmup], mixtures.drawn(told.other, told.longest, cfg.seed, size), size
    )
    return Sets(
        candidates=_both(candidates, others[:half]),
        warmup=_both(warmup, others[half:]),
        reference=tuple(reference),
    )


def _both(useful: Sequence[Example], others: Sequence[Example]) -> tuple[Example, ...]:
    return (*mixtures.named(useful, "useful"), *mixtures.named(others, "other"))


def check(cfg: SeesConfig) -> None:
    """Refuses unknown methods, sources that are too small, and a student without a template."""
    for name in cfg.methods:
        registry.build(name)
    load(cfg)
    check_template(cfg.student)


def area(scores: Mapping[str, float], rng: np.random.Generator) -> Estimate:
    """How often a useful row is above another one, ties one half, with its interval.

    Args:
        scores: by id; useful rows' ids begin with ``useful:``.
        rng: the only source of randomness.
    """
    values = np.array(list(scores.values()), dtype=np.float64)
    useful = np.array([name.startswith("useful:") for name in scores])

    def rate(rows: np.ndarray) -> float:
        value, side = values[rows], useful[rows]
        if side.all() or not side.any():
            return float("nan")
        return float(((1 + np.sign(value[side][:, None] - value[~side][None, :])) / 2).mean())

    return bootstrap.interval(np.arange(len(values)), rate, rng)


def run(cfg: SeesConfig, session: Session, study: str, run_id: str) -> RunResult:
    """Lets every method score the mixed candidates; one area a method."""
    sets = load(cfg)
    scored = score_all(cfg, sets, sets.candidates, session)
    rows = []
    for method in scored.scores:
        # The same draws for every method: differences between rows are not Monte Carlo.
        rng = np.random.default_rng(int(digest(f"sees:{cfg.seed}"), 16))
        base = blank_row(study, run_id, method, cfg.seed)
        rows.append(row_of(base, "auc", area(scored.values(method), rng)))
    groups = {example.id: example.group for example in sets.candidates}
    return scored_student.result(cfg, scored, rows, groups, session, (study, run_id))


KIND = Kind(settings=SeesConfig, check=check, run=run, metrics=("auc",))
