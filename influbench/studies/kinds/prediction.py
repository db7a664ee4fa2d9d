"""Do scores predict training? Short trainings on each method's top, middle and bottom third."""

from __future__ import annotations

from pydantic import Field

from influbench.data import load_evaluation
from influbench.evaluation.suites.losses import held_out
from influbench.results import RunResult
from influbench.store.session import Session
from influbench.studies import prediction, scored_student
from influbench.studies.kind import Kind
from influbench.studies.prediction import PredictionConfig, Trainings
from influbench.studies.scored_student import ScoredStudentConfig, blank_row, load_sets, score_all

METRICS = (
    *("gain_top", "gain_middle", "gain_bottom", "gain_top_minus_bottom"),
    *("gain_correlation", "lds"),
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
    groups = {example.id: example.group for example in sets.candidates}
    return scored_student.result(cfg, scored, rows, groups, session, (study, run_id))


KIND = Kind(settings=PredictionStudyConfig, check=scored_student.check, run=run, metrics=METRICS)
