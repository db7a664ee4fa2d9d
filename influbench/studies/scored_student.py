"""One warmed student and many methods' scores of the same candidates: what the verdicts start from.

Used where a question is put to the estimators outside the loop: do they find planted bad candidates
(``influbench.studies.planted``), do they predict training (``influbench.studies.prediction``)?
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from influbench import scoring, training
from influbench.config import Config, Seed, transport
from influbench.data import DataConfig, load_examples, load_reference, load_starter
from influbench.data.records import Example, LedgerRow, ModelRef, ResultRow, Score
from influbench.errors import UserError
from influbench.estimator import registry
from influbench.files import digest
from influbench.judging import JudgeConfig
from influbench.models import ModelConfig
from influbench.models.templates import check_template, templated
from influbench.results import RunResult, blank_row, cost_rows, publish
from influbench.scoring import MethodConfig, ScoringSettings
from influbench.store.session import Session
from influbench.training import WarmupConfig, WarmupSettings


class ScoredStudentConfig(Config):
    """A student, its data, and the methods that score."""

    student: ModelConfig
    methods: tuple[str, ...] = Field(description="registered names, or module:Class")
    candidates: str = Field(
        default="starter",
        description="pairs to judge: a file, or starter; what is not used is the warm-up set",
    )
    num_candidates: int = Field(default=24, ge=2)
    num_warmup: int = Field(default=32, ge=2)
    data: DataConfig = DataConfig(num_reference=24)
    warmup: WarmupSettings = WarmupSettings(batch_size=4)
    scoring: ScoringSettings = ScoringSettings()
    device: str = transport("auto", "where all models of the study stand")
    judge: JudgeConfig = JudgeConfig()
    seed: Seed = Field(default=0, description="of the sets, the warm-up and methods that draw")


@dataclass(frozen=True)
class Sets:
    """Disjoint data of one seed."""

    candidates: tuple[Example, ...]
    warmup: tuple[Example, ...]
    reference: tuple[Example, ...]


@dataclass(frozen=True)
class Scored:
    """A warmed student, and what every method says of the candidates."""

    student: ModelRef
    scores: Mapping[str, Sequence[Score]]
    facts: Mapping[str, Mapping[str, float]]
    ledger: Sequence[LedgerRow]

    def values(self, method: str) -> dict[str, float]:
        """Scores of a method by candidate id."""
        return {score.id: score.value for score in self.scores[method]}


def load_sets(cfg: ScoredStudentConfig) -> Sets:
    """Candidates and warm-up set, drawn from one source, and the reference set.

    Raises:
        UserError: the source is too small.
    """
    starter = cfg.candidates == "starter"
    pool = load_starter("seed") if starter else load_examples(cfg.candidates)
    wanted = cfg.num_candidates + cfg.num_warmup
    if len(pool) < wanted:
        raise UserError(
            f"'{cfg.candidates}' has {len(pool)} pairs: expected {cfg.num_candidates} candidates "
            f"and {cfg.num_warmup} for the warm-up; lower num_candidates or num_warmup"
        )
    drawn = sorted(pool, key=lambda e: digest(f"sets:{cfg.seed}:{e.id}"))[:wanted]
    return Sets(
        candidates=tuple(drawn[: cfg.num_candidates]),
        warmup=tuple(drawn[cfg.num_candidates :]),
        reference=tuple(load_reference(cfg.data)),
    )


def check(cfg: ScoredStudentConfig) -> None:
    """Refuses what cannot work before the first second of compute.

    Raises:
        UserError: an unknown method, too little data, or a student without a chat template.
    """
    for name in cfg.methods:
        registry.build(name)
    load_sets(cfg)
    check_template(cfg.student)


def score_all(
    cfg: ScoredStudentConfig, sets: Sets, candidates: Sequence[Example], session: Session
) -> Scored:
    """Warms the student up and lets every method score the candidates.

    Raises:
        UserError: a method cannot score them.
    """
    everywhere: dict[str, Any] = {"seed": cfg.seed, "device": cfg.device}
    warmup = cfg.warmup.into(WarmupConfig, **everywhere)
    base = templated(cfg.student, session.run)
    student = session.run(training.WARM_UP, warmup, sets.warmup, base).model("student")
    found: dict[str, scoring.Scored] = {}
    for name in cfg.methods:
        method = cfg.scoring.into(
            MethodConfig, estimator=name, dtype=cfg.student.dtype, judge=cfg.judge, **everywhere
        )
        inputs = candidates, sets.reference, sets.warmup, student
        found[name] = scoring.score_candidates(session, method, *inputs)
    return Scored(
        student=student,
        scores={name: scored.scores for name, scored in found.items()},
        facts={name: scored.facts for name, scored in found.items()},
        ledger=session.ledger,
    )


def result(
    cfg: ScoredStudentConfig,
    scored: Scored,
    rows: Sequence[ResultRow],
    groups: Mapping[str, str],
    session: Session,
    names: tuple[str, str],
) -> RunResult:
    """The numbers of one run next to what the scores cost; ``names`` are study and run."""
    costs: list[ResultRow] = []
    for name in scored.scores:
        own = [row for row in scored.ledger if row.stage == "score" and row.label == name]
        costs += cost_rows(own, blank_row(*names, name, cfg.seed))
    config, both = cfg.model_dump(mode="json"), [*rows, *costs]
    return publish(config, cfg.device, both, session, scores=scored.scores, groups=groups)
