"""Do scores predict training? Short trainings on each method's top, middle and bottom third."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from pydantic import Field

from influbench.data import load_evaluation
from influbench.data.records import ResultRow
from influbench.evaluation.suites.losses import held_out
from influbench.results import RunResult, blank_row, cost_rows
from influbench.store.session import Session
from influbench.studies import prediction, scored_student
from influbench.studies.break_even import break_even
from influbench.studies.kind import Kind
from influbench.studies.prediction import PredictionConfig, Trainings, how_many
from influbench.studies.scored_student import (
    Scored,
    ScoredStudentConfig,
    load_sets,
    score_all,
)

RANDOM = "random"
METRICS = (
    *("gain_top", "gain_middle", "gain_bottom", "gain_top_minus_bottom"),
    *("gain_correlation", "lds", "break_even_share", "break_even_ratio"),
)


class PredictionStudyConfig(ScoredStudentConfig):
    """A student, what it is shown, and the trainings on it."""

    prediction: PredictionConfig = PredictionConfig()
    training_seeds: tuple[int, ...] = Field(
        default=(0, 1, 2), min_length=1, description="each draws candidates and trains on thirds"
    )


def run(cfg: PredictionStudyConfig, session: Session, study: str, run_id: str) -> RunResult:
    """Scores once, trains on every third with every seed, and tells the gains."""
    sets = load_sets(cfg)
    scored = score_all(cfg, sets, sets.candidates, session)
    trainings = Trainings(
        cfg=cfg.prediction,
        device=cfg.device,
        candidates={example.id: example for example in sets.candidates},
        held_out=held_out(load_evaluation(cfg.data)),
        student=scored.student,
        session=session,
    )
    banked = prediction.bank(trainings, cfg.seed)
    rows = []
    for method in scored.scores:
        found = prediction.predict(scored.values(method), trainings, cfg.training_seeds)
        base = blank_row(study, run_id, method, cfg.seed)
        rows += prediction.result_rows(scored.values(method), found, banked, base)
    rows += repaid(cfg, rows, scored, session)
    groups = {example.id: example.group for example in sets.candidates}
    return scored_student.result(cfg, scored, rows, groups, session, (study, run_id))


def repaid(
    cfg: PredictionStudyConfig, rows: Sequence[ResultRow], scored: Scored, session: Session
) -> list[ResultRow]:
    """``break_even_share``, ``_ratio`` and ``_candidates`` of each method with a curve.

    They need the curve of ``random``; a method that costs no pass of the student has none. The
    share is always there, the other two where a selection pays at all.
    """
    found = {(row.estimator, row.metric): row for row in rows}
    percent, told = cfg.prediction.curve, []
    drawn = how_many(cfg.prediction.share, cfg.num_candidates)
    curve = {p: found.get((RANDOM, f"addition_{p}/heldout_loss")) for p in percent}
    if not percent or None in curve.values():
        return []
    # As many rows as were trained on, which a percentage of a few is not.
    chance = {how_many(p / 100, drawn) / drawn: row.value for p, row in curve.items() if row}
    least = min(percent)
    for method in scored.scores:
        row = found[method, f"addition_{least}/heldout_loss"]
        ledger = [r for r in scored.ledger if r.stage == "score" and r.label == method]
        costs = {r.metric: r.value for r in cost_rows(ledger, row)}
        if method == RANDOM or not costs.get("passes_per_candidate"):
            continue
        when = break_even(
            min(chance),
            row.value,
            chance,
            costs["prepare_passes"],
            costs["passes_per_candidate"],
        )
        if when.at_least:
            session.note(f"{method}: no share of random rows did as well: it pays sooner")
        blank = replace(row, low=None, high=None, stderr=None, unit="")
        told += [
            replace(blank, metric=metric, value=value)
            for metric, value in (
                ("break_even_share", when.share),
                ("break_even_ratio", when.ratio),
                ("break_even_candidates", when.candidates),
            )
            if math.isfinite(value)
        ]
    return told


KIND = Kind(settings=PredictionStudyConfig, check=scored_student.check, run=run, metrics=METRICS)
