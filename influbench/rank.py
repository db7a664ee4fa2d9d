"""Rank anybody's data for anybody's model: ``influbench.score`` and ``influbench score``."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from influbench import models, registry, scoring, training
from influbench.config import Config
from influbench.data.examples import load_examples
from influbench.errors import UserError
from influbench.files import digest
from influbench.models.templates import with_template
from influbench.records import Example, LedgerRow, ModelRef, Score
from influbench.results.score_files import ScoreFile
from influbench.scoring import MethodConfig, ScoringSettings
from influbench.session import Session
from influbench.store import Store
from influbench.training import WarmupConfig

Source = str | Path | Sequence[Example]


class StudentChoice(Config):
    """How the student reads examples."""

    chat_template: str | None = None
    """For a model without one: ``chatml``, a jinja file, or the template itself."""


class ScoreSettings(Config):
    """What ``influbench score --set`` reaches; the names are those of a run."""

    student: StudentChoice = StudentChoice()
    scoring: ScoringSettings = ScoringSettings()


@dataclasses.dataclass(frozen=True)
class Ranking:
    """Scores and what they cost."""

    scores: Sequence[Score]
    """In the candidates' order."""
    facts: dict[str, float]
    """What the method says of itself."""
    ledger: Sequence[LedgerRow]
    groups: Mapping[str, str]
    """Candidate id to group, without those that have none."""
    about: Mapping[str, Any]
    """The method, its settings, and digests of what it was given."""

    def as_file(self, name: str) -> ScoreFile:
        """What ``influbench compare`` reads."""
        return ScoreFile(
            name=name, scores=self.scores, groups=self.groups, about=self.about, ledger=self.ledger
        )

    def frame(self) -> pd.DataFrame:
        """Columns ``id``, ``score`` (+ ``stderr`` where there is one), in the candidates' order."""
        columns: dict[str, Any] = {
            "id": [s.id for s in self.scores],
            "score": [s.value for s in self.scores],
        }
        if any(s.stderr is not None for s in self.scores):
            columns["stderr"] = [s.stderr for s in self.scores]
        return pd.DataFrame(columns)


def score(
    *,
    student: str | Path,
    candidates: Source,
    reference: Source,
    estimator: str = "exact",
    warmup: Source | None = None,
    seed: int = 0,
    store: Path | None = None,
    chat_template: str | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Scores of candidates for a student: positive = one step on it lowers the mean reference loss.

    Args:
        student: a hub name, a packaged model, a folder, or a Hugging Face Trainer checkpoint.
        candidates: a file (JSONL, JSON, CSV, Parquet …), a hub name, or examples.
        reference: the same; the pairs whose mean loss defines what helps.
        estimator: a registered name, or ``module:Class``.
        warmup: pairs that give the student its optimizer moments where its folder holds none.
        seed: of methods that draw.
        store: where half-done work is kept; ``.influbench`` here by default.
        chat_template: for a base model: ``chatml``, a jinja file, or the template itself.
        **options: the estimator's own.

    Returns:
        Columns ``id``, ``score`` (+ ``stderr`` where the method has one), in the candidates' order.

    Raises:
        UserError: bad data, an unknown estimator or option, a student without the moments needed.
    """
    return rank(
        student=student,
        candidates=candidates,
        reference=reference,
        method=MethodConfig(estimator=estimator, options=options, seed=seed),
        warmup=warmup,
        session=Session(Store(store or Path(".influbench"))),
        chat_template=chat_template,
    ).frame()


def rank(
    *,
    student: str | Path,
    candidates: Source,
    reference: Source,
    method: MethodConfig,
    session: Session,
    warmup: Source | None = None,
    limit: int | None = None,
    reference_limit: int | None = None,
    chat_template: str | None = None,
) -> Ranking:
    """What the command does: the same as :func:`score`, with the ledger.

    Raises:
        UserError: see :func:`score`.
    """
    registry.build(method.estimator, method.options)
    needed = registry.needs(method.estimator)
    judged = _examples(candidates, limit)
    references = _examples(reference, reference_limit)
    if len(references) < 2:
        raise UserError(
            f"the reference set has {len(references)} example: expected 2 or more, "
            "since scores are means over them"
        )
    warm = [] if warmup is None else _examples(warmup, None)
    ref = models.resolve(str(student))
    if chat_template is not None:
        ref = with_template(ref, chat_template, session.store)
    session.note(_system_note(ref, [*judged, *references, *warm]))
    ref = _with_moments(ref)
    own_moments = (Path(ref.path) / "optimizer.pt").is_file()
    # Whoever looks at the student sees the same one, whether it needs the moments or not.
    if warm and ("moments" in needed or (set(needed) - {"judge"} and not own_moments)):
        ref = _warmed(ref, warm, method, session)
    inputs = judged, references, warm, ref
    found = scoring.score_candidates(session, method, *inputs)
    return Ranking(
        scores=found.scores,
        facts=found.facts,
        ledger=found.ledger,
        groups={e.id: e.group for e in judged if e.group},
        about={
            **_settings(found.method, found.scale),
            "needs": list(needed),
            "student": {"name": str(student), "digest": ref.digest},
            "candidates": {"count": len(judged), "digest": digest(judged)},
            "reference": {"count": len(references), "digest": digest(references)},
            "warmup": {"count": len(warm), "digest": digest(warm)},
            "diagnostics": found.facts,
        },
    )


def _settings(method: MethodConfig, scale: str) -> dict[str, Any]:
    """All that the scores depend on beside the data, the estimator's defaults spelt out."""
    built: Any = registry.build(method.estimator, method.options)
    fields = {f.name: getattr(built, f.name) for f in dataclasses.fields(built)}
    options = json.loads(json.dumps(fields, default=str))
    return {**method.identity(), "options": options, "scale": scale}


def _system_note(ref: ModelRef, examples: Sequence[Example]) -> str:
    """Said where the student's template has no place for the system turns that there are."""
    count = sum(example.turns[0][0] == "system" for example in examples)
    if not count or models.takes_system(models.load_tokenizer(ref)):
        return ""
    return (
        f"the student's chat template has no system turn: in {count} examples its text stands "
        "before the user's"
    )


def _with_moments(ref: ModelRef) -> ModelRef:
    """The same model, told apart from one with equal weights and other moments."""
    path = Path(ref.path) / "optimizer.pt"
    if not path.is_file():
        return ref
    with path.open("rb") as file:
        moments = hashlib.file_digest(file, "sha256").hexdigest()
    return dataclasses.replace(ref, digest=digest(f"{ref.digest}:{moments}"))


def _warmed(
    ref: ModelRef, warm: Sequence[Example], method: MethodConfig, session: Session
) -> ModelRef:
    if (Path(ref.path) / "optimizer.pt").is_file():
        raise UserError(
            f"{ref.path} holds optimizer.pt and a warm-up set is given too: expected one of them; "
            "leave --warmup out to use the checkpoint's own moments"
        )
    cfg = WarmupConfig(
        learn=method.learn,
        seed=method.seed,
        device=method.device,
        batch_size=max(1, min(8, len(warm) // 4)),
    )
    return session.run(training.WARM_UP, cfg, warm, ref).model("student")


def _examples(source: Source, limit: int | None) -> list[Example]:
    if isinstance(source, (str, Path)):
        return load_examples(source, limit)
    return list(source)[:limit]
