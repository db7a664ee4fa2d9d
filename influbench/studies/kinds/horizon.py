"""How far do scores agree with the influence of a step on the student some steps later?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from pydantic import Field

from influbench import scoring
from influbench.data.records import ResultRow
from influbench.files import digest
from influbench.results import CEILING, RunResult, blank_row, row_of
from influbench.scoring import MethodConfig
from influbench.statistics.agreement import spearman
from influbench.statistics.bootstrap import interval
from influbench.statistics.estimate import Estimate
from influbench.store.session import Session
from influbench.studies import horizon, scored_student
from influbench.studies.kind import Kind
from influbench.studies.scored_student import (
    Scored,
    ScoredStudentConfig,
    Sets,
    load_sets,
    score_all,
)

STEPS = (1, 2, 4, 8, 16)


class HorizonConfig(ScoredStudentConfig):
    """A student, the methods, and how far ahead the truth looks."""

    steps: tuple[int, ...] = Field(default=STEPS, min_length=1, description="of the student")
    orders: int = Field(default=2, ge=1, description="of what it learns after the candidate")
    following_batch: int = Field(default=4, ge=1, description="examples of each later step")


def run(cfg: HorizonConfig, session: Session, study: str, run_id: str) -> RunResult:
    """Scores once, measures the influence at each horizon, and compares."""
    sets = load_sets(cfg)
    scored = score_all(cfg, sets, sets.candidates, session)
    along = _measured(cfg, sets, scored, session)
    # One step has nothing that follows: its orders are all the same.
    truth = {k: along[: 1 if k == 1 else None, :, i] for i, k in enumerate(cfg.steps)}
    names = [example.id for example in sets.candidates]
    rows: list[ResultRow] = []
    for method in scored.scores:
        values = scored.values(method)
        told, base = (
            np.array([values[n] for n in names]),
            blank_row(study, run_id, method, cfg.seed),
        )
        for steps, orders in truth.items():
            found = agreement(told, orders.mean(axis=0), cfg.seed)
            rows.append(row_of(base, f"horizon_{steps}/spearman", found))
    base = blank_row(study, run_id, CEILING, cfg.seed)
    for steps, orders in truth.items():
        if len(orders) > 1:
            pairs = [agreement(a, b, cfg.seed) for a, b in combinations(orders, 2)]
            value = float(np.mean([one.value for one in pairs]))
            found = Estimate(value=value, n=len(names))
            rows.append(row_of(base, f"horizon_{steps}/spearman", found))
    session.note("ceiling: the influence in one order of later batches against that in another")
    groups = {example.id: example.group for example in sets.candidates}
    return scored_student.result(cfg, scored, rows, groups, session, (study, run_id))


def _measured(cfg: HorizonConfig, sets: Sets, scored: Scored, session: Session) -> np.ndarray:
    """Influence at each horizon, shape [order, candidate, horizon], nats per response token."""
    rows: list[list[Sequence[float]]] = []
    for order in range(cfg.orders if max(cfg.steps) > 1 else 1):
        options = {"steps": cfg.steps, "order": order, "batch_size": cfg.following_batch}
        method = cfg.scoring.into(
            MethodConfig,
            estimator=horizon.NAME,
            options=options,
            dtype=cfg.student.dtype,
            seed=cfg.seed,
            device=cfg.device,
        )
        inputs = sets.candidates, sets.reference, sets.warmup, scored.student
        found = scoring.score_candidates(session, method, *inputs, label=f"horizon, order {order}")
        rows.append([score.per_reference or () for score in found.scores])
    return np.array(rows)


def agreement(a: np.ndarray, b: np.ndarray, seed: int) -> Estimate:
    """Spearman over candidates, shapes [candidate], with an interval over them."""
    rng = np.random.default_rng(int(digest(f"horizon:{seed}"), 16))
    return interval(np.arange(len(a)), lambda rows: spearman(a[rows], b[rows]), rng)


METRICS = tuple(f"horizon_{steps}/spearman" for steps in STEPS)
KIND = Kind(settings=HorizonConfig, check=scored_student.check, run=run, metrics=METRICS)
