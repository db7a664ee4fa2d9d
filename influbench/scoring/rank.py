"""Rank anybody's data for anybody's model: ``influbench.score`` and ``influbench score``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import Field

from influbench import models, scoring
from influbench.config import Config, Seed, from_settings, transport
from influbench.data.examples import Source, as_examples
from influbench.data.records import Example, LedgerRow, ModelRef, Score
from influbench.errors import UserError
from influbench.estimator import registry
from influbench.files import digest
from influbench.judging import JudgeConfig
from influbench.results.score_files import ScoreFile
from influbench.scoring import ORACLE, MethodConfig, ScoringSettings, given
from influbench.scoring.doubt import doubt
from influbench.scoring.given import Given, StudentConfig
from influbench.store import Store
from influbench.store.budget import Budget
from influbench.store.session import Session
from influbench.training import WarmupConfig, WarmupSettings

AUTO = "auto"
"""The default estimator: the oracle where the student has what it needs, else ``gradient_dot``."""
WITHOUT_MOMENTS = "gradient_dot"


class RankWarmup(WarmupSettings):
    """The warm-up of a student that comes without moments: a few steps, however few the pairs."""

    batch_size: int | None = Field(  # pyright: ignore[reportIncompatibleVariableOverride]  # frozen
        default=None, ge=1, description="examples in one optimizer step; None = a quarter, up to 8"
    )


class RankConfig(Config):
    """All settings of ``influbench score`` beside its files."""

    student: StudentConfig
    estimator: str = Field(default=AUTO, description="a registered name, or module:Class")
    options: dict[str, Any] = Field(default_factory=dict, description="the estimator's own")
    seed: Seed = 0
    device: str = transport("auto")
    limit: int | None = Field(default=None, ge=1, description="the first N candidates only")
    reference_limit: int | None = Field(default=None, ge=1)
    scoring: ScoringSettings = ScoringSettings()
    warmup: RankWarmup = RankWarmup()
    judge: JudgeConfig = JudgeConfig()


@dataclasses.dataclass(frozen=True)
class Ranking:
    """Scores and what they cost."""

    scores: Sequence[Score]
    """In the candidates' order."""
    candidates: Sequence[Example]
    """What was scored."""
    facts: dict[str, float]
    """What the method says of itself."""
    ledger: Sequence[LedgerRow]
    groups: Mapping[str, str]
    """Candidate id to group, without those that have none."""
    about: Mapping[str, Any]
    """The method, its settings, and digests of what it was given."""
    hangs_on: Sequence[str]
    """What the scores hang on of the training that the student comes from, for people."""
    notes: Sequence[str]
    """What a reader must know, and which method was chosen and why, where none was named."""

    def as_file(self, name: str) -> ScoreFile:
        """What ``influbench compare`` reads."""
        return ScoreFile(
            name=name, scores=self.scores, groups=self.groups, about=self.about, ledger=self.ledger
        )

    def frame(self, *, per_reference: bool = False) -> pd.DataFrame:
        """Columns ``id``, ``score`` (+ ``stderr`` where there is one), in the candidates' order.

        Args:
            per_reference: with one list a candidate, a number a reference, where the method has it.
        """
        columns: dict[str, Any] = {
            "id": [s.id for s in self.scores],
            "score": [s.value for s in self.scores],
        }
        if any(s.stderr is not None for s in self.scores):
            columns["stderr"] = [s.stderr for s in self.scores]
        if per_reference and any(s.per_reference is not None for s in self.scores):
            columns["per_reference"] = [list(s.per_reference or ()) for s in self.scores]
        found = pd.DataFrame(columns)
        found.attrs = {
            "estimator": self.about["estimator"],
            "hangs_on": list(self.hangs_on),
            "notes": list(self.notes),
        }
        return found


def score(
    *,
    student: str | Path,
    candidates: Source,
    reference: Source,
    estimator: str = AUTO,
    warmup: Source | None = None,
    limit: int | None = None,
    reference_limit: int | None = None,
    max_length: int | None = None,
    per_reference: bool = False,
    device: str = "auto",
    dtype: Literal["float32", "bfloat16"] = "float32",
    compute: Literal["float32", "bfloat16", "tf32"] = "float32",
    chat_template: str | None = None,
    seed: int = 0,
    store: str | Path = ".influbench",
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Scores of candidates for a student: positive = one step on it lowers the mean reference loss.

    Example::

        pairs = [{"instruction": "Name a river.", "response": "The Elbe."}, ...]
        influbench.score(student="gpt2", candidates=pairs, reference="held_out.jsonl")

    Args:
        student: a hub name, a packaged model, a folder, or a Hugging Face Trainer checkpoint.
        candidates: a file (JSONL, JSON, CSV, Parquet …), a hub name, dictionaries, a DataFrame, a
            ``datasets.Dataset``, or examples.
        reference: the same; the pairs whose mean loss defines what helps.
        estimator: a registered name, or ``module:Class``; ``auto`` takes ``exact`` where the
            student has optimizer moments or a warm-up set is given, else ``gradient_dot``.
        warmup: pairs that give the student its optimizer moments where its folder holds none.
        limit: the first so many candidates only.
        reference_limit: the first so many references only.
        max_length: cut examples at so many tokens; by default longer ones are refused.
        per_reference: also give one number a reference, as a list in each row.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N``.
        dtype: of the student's weights.
        compute: of its matrix products.
        chat_template: for a base model: ``chatml``, a jinja file, or the template itself.
        seed: of methods that draw.
        store: where half-done work is kept.
        settings: any other setting of ``influbench score --set``, by dotted name.
        **options: the estimator's own.

    Returns:
        One row a candidate, in the candidates' order: ``id`` (text), ``score`` (float64; nats per
        response token where the method's scale is ``nats``), ``stderr`` in the same unit where the
        method has one, and with ``per_reference`` a list of one number a reference. ``attrs`` say
        which estimator it was, why where it was chosen, and what the scores depend on.

    Raises:
        UserError: bad data, an unknown estimator or option, a student without the moments needed.
        MethodError: an estimator from another package failed.
    """
    given = {
        "student.name": str(student),
        "student.dtype": dtype,
        "student.chat_template": chat_template,
        "estimator": estimator,
        "options": options,
        "limit": limit,
        "reference_limit": reference_limit,
        "scoring.max_length": max_length,
        "scoring.compute": compute,
        "device": device,
        "seed": seed,
        **(settings or {}),
    }
    cfg = from_settings(RankConfig, given, "influbench.score")
    session = Session(Store(Path(store)), Budget(cfg.judge.max_dollars))
    found = rank(cfg, candidates, reference, session, warmup=warmup)
    return found.frame(per_reference=per_reference)


def rank(
    cfg: RankConfig,
    candidates: Source,
    reference: Source,
    session: Session,
    *,
    warmup: Source | None = None,
) -> Ranking:
    """What the command does: the same as :func:`score`, with the ledger.

    Raises:
        UserError: see :func:`score`.
    """
    if cfg.estimator != AUTO:
        registry.build(cfg.estimator, cfg.options)
    judged = as_examples(candidates, cfg.limit, "candidates")
    references = as_examples(reference, cfg.reference_limit, "reference", reference=True)
    if len(references) < 2:
        raise UserError(
            f"the reference set has {len(references)} example: expected 2 or more, "
            "since scores are means over them"
        )
    warm = [] if warmup is None else as_examples(warmup, None, "warmup")
    student = given.find(cfg.student, session)
    session.note(_system_note(student.ref, [*judged, *references, *warm]))
    name = cfg.estimator
    if name == AUTO:
        name, why = _chosen(student, bool(warm))
        session.note(f"estimator: {name}, since {why}")
    needed = registry.build(name, cfg.options).facts.needs
    # Whoever looks at the student sees the same one, whether it needs the moments or not.
    if warm and ("moments" in needed or ("student" in needed and not student.steps)):
        student = given.warmed(student, warm, _warmup(cfg, len(warm)), session)
    for note in student.notes(needed):
        session.note(note)
    method = cfg.scoring.into(
        MethodConfig,
        estimator=name,
        options=cfg.options,
        seed=cfg.seed,
        dtype=cfg.student.dtype,
        told=student.told,
        judge=cfg.judge,
        device=cfg.device,
    )
    found = scoring.score_candidates(session, method, judged, references, warm, student.ref)
    session.note(doubt(found.scores))
    settings = _settings(found.method, found.scale)
    step = student.hangs_on(needed, settings["options"])
    return Ranking(
        scores=found.scores,
        candidates=judged,
        facts=found.facts,
        ledger=found.ledger,
        groups={e.id: e.group for e in judged if e.group},
        about={
            **settings,
            "needs": sorted(needed),
            "student": {"name": cfg.student.name, "digest": student.ref.digest},
            "hangs_on": None if step is None else step.facts(),
            "candidates": _told(judged),
            "reference": _told(references),
            "warmup": _told(warm),
            "diagnostics": found.facts,
        },
        hangs_on=[] if step is None else step.lines(),
        notes=tuple(session.notes),
    )


def _chosen(student: Given, warm: bool) -> tuple[str, str]:
    """The estimator where none is named, and why it."""
    if student.steps:
        return ORACLE, "the student's folder holds optimizer moments (optimizer.pt)"
    if warm:
        return ORACLE, "a warm-up set gives the student its moments"
    return WITHOUT_MOMENTS, (
        f"{student.history.why_not or 'its step has a rate of 0'}, and '{ORACLE}' needs them; "
        "give --warmup for it"
    )


def _told(rows: Sequence[Example]) -> dict[str, Any]:
    """What a file says of the rows it looked at: in their order, and in any."""
    return {
        "count": len(rows),
        "digest": digest(rows),
        "rows": digest("".join(sorted(digest([row]) for row in rows))),
    }


def _settings(method: MethodConfig, scale: str) -> dict[str, Any]:
    """All that the scores depend on beside the data, the estimator's defaults spelt out."""
    return {**method.identity(), "options": scoring.resolved_options(method), "scale": scale}


def _system_note(ref: ModelRef, examples: Sequence[Example]) -> str:
    """Said where the student's template has no place for the system turns that there are."""
    count = sum(example.turns[0][0] == "system" for example in examples)
    if not count or models.takes_system(models.load_tokenizer(ref)):
        return ""
    return (
        f"the student's chat template has no system turn: in {count} examples its text stands "
        "before the user's"
    )


def _warmup(cfg: RankConfig, examples: int) -> WarmupConfig:
    size = cfg.warmup.batch_size or max(1, min(8, examples // 4))
    learn = cfg.warmup if "learn" in cfg.warmup.model_fields_set else cfg.scoring
    told = cfg.warmup.model_copy(update={"batch_size": size, "learn": learn.learn})
    return told.into(WarmupConfig, seed=cfg.seed, device=cfg.device)
