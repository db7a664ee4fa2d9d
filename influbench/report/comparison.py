"""The verdict: score files about the same candidates against the oracle, next to what each cost.

``influbench.compare`` and ``influbench compare``. The measures stand in
``statistics.against_oracle``. An oracle that was measured against the state before the step
(``baseline="before"``) is first centred on the empty step, so that its sign means what the
methods' signs mean.

Two rows are no method: ``ceiling`` is the oracle against itself on disjoint halves of the
references (not with fewer than 32 of them), ``own noise`` the oracle against itself with its
measured numerical noise added: what noise takes from perfect agreement, no score to reach.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
from pydantic import Field, TypeAdapter, ValidationError

from influbench.config import Config, Seed
from influbench.data.records import Score
from influbench.errors import UserError
from influbench.estimator import Scale
from influbench.files import digest, write_bytes
from influbench.report import otherwise
from influbench.report.notes import no_ceiling
from influbench.results import CEILING, blank_row, cost_rows, outputs, score_files
from influbench.results.score_files import ScoreFile
from influbench.statistics import against_oracle

NOISE = "own noise"
"""Name of the row of the oracle against itself plus its numerical noise."""

RESAMPLES = 1000
FLOATS = ("value", "low", "high", "stderr")
COLUMNS = ("estimator", "metric", "value", "low", "high", "stderr", "n", "unit")


class CompareConfig(Config):
    """All settings of ``influbench compare`` beside its files."""

    oracle: str = Field(default="exact", description="the stem of a score file, or another file")
    seed: Seed = Field(default=0, description="of the bootstrap")
    resamples: int = Field(default=RESAMPLES, ge=2, description="of the bootstrap")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What the files say together."""

    oracle: str
    candidates: int
    groups: int
    """Groups of two candidates or more."""
    rows: pd.DataFrame
    """One row a number, see :func:`compare`."""
    notes: tuple[str, ...]
    """What a reader must know."""


def compare(
    scores: Sequence[str | Path],
    oracle: str | Path = "exact",
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> pd.DataFrame:
    """How far each method agrees with the oracle, and what it cost.

    Args:
        scores: files as ``influbench score --out`` writes them; the stem is the method's name.
        oracle: the stem of one of them, or another such file.
        seed: of the bootstrap.
        resamples: of the bootstrap.

    Returns:
        One row a number. Columns estimator, metric, value, low, high (95 % bootstrap interval over
        groups), stderr, n, unit (empty for correlations and shares); undefined numbers are left
        out. Costs have no interval. ``statistics.against_oracle`` says what each metric is.

    Raises:
        UserError: a file that holds no scores, no oracle, or other candidates than the oracle's.
    """
    return verdict(scores, CompareConfig(oracle=str(oracle), seed=seed, resamples=resamples)).rows


def verdict(scores: Sequence[str | Path], cfg: CompareConfig) -> Comparison:
    """What the command does: the same as :func:`compare`, with the notes.

    Raises:
        UserError: see :func:`compare`.
    """
    judge, others = _files(scores, cfg.oracle)
    judge = null_centred(judge)
    groups = dict(judge.groups)
    scales: dict[str, Scale] = {file.name: _scale(file) for file in [judge, *others]}
    rng = np.random.default_rng(int(digest(f"compare:{cfg.seed}"), 16))
    found = against_oracle.agreement_table(
        judge.scores,
        {file.name: file.scores for file in others},
        groups,
        scales,
        rng,
        oracle_scale=scales[judge.name],
        resamples=cfg.resamples,
    )
    found[CEILING] = against_oracle.ceiling(judge.scores, groups, rng, resamples=cfg.resamples)
    floor = judge.about.get("diagnostics", {}).get("noise_floor")
    if floor is not None:
        noisy = {NOISE: _noisy(judge.scores, float(floor), rng)}
        scale: dict[str, Scale] = {NOISE: scales[judge.name]}
        found |= against_oracle.agreement_table(
            judge.scores,
            noisy,
            groups,
            scale,
            rng,
            oracle_scale=scales[judge.name],
            resamples=cfg.resamples,
        )
    rows: list[dict[str, Any]] = [
        {"estimator": name, "metric": metric, **dataclasses.asdict(item)}
        for name, metrics in found.items()
        for metric, item in metrics.items()
        if item.defined
    ]
    rows += [row for file in [judge, *others] for row in _costs(file)]
    sizes = pd.Series(list(groups.values()), dtype=object).value_counts()
    return Comparison(
        oracle=judge.name,
        candidates=len(judge.scores),
        groups=int((sizes > 1).sum()),
        rows=pd.DataFrame(rows, columns=list(COLUMNS)).astype(dict.fromkeys(FLOATS, float)),
        notes=tuple(_notes(judge, others)),
    )


def claim(out: Path, inputs: Sequence[str | Path] = ()) -> Path:
    """``out`` as a table that may be written; see :func:`outputs.claim`.

    Raises:
        UserError: it may not.
    """
    head = ",".join(COLUMNS) + "\n"
    return outputs.claim(out, lambda path: outputs.begins(path, head), inputs=inputs)


def write(out: Path, found: Comparison) -> None:
    """All numbers of a comparison as a CSV file.

    Raises:
        UserError: there is a file that influbench did not write.
    """
    write_bytes(claim(out), found.rows.to_csv(index=False).encode())


def null_centred(oracle: ScoreFile) -> ScoreFile:
    """Scores against the empty step, where they were measured against the state before it.

    Raises:
        UserError: they were, and the file does not say how far the empty step moves the loss.
    """
    if oracle.about.get("options", {}).get("baseline") != "before":
        return oracle
    facts = oracle.about.get("diagnostics", {})
    names = ("reference_loss_before", "reference_loss_null")
    if not all(name in facts for name in names):
        raise UserError(
            f"oracle '{oracle.name}' was measured with baseline = before and its .meta.json does "
            f"not hold {' and '.join(names)}: score again with the option baseline=null"
        )
    drift = float(facts[names[0]]) - float(facts[names[1]])
    return dataclasses.replace(oracle, scores=[_shifted(score, -drift) for score in oracle.scores])


def _shifted(score: Score, by: float) -> Score:
    each = score.per_reference
    return dataclasses.replace(
        score,
        value=score.value + by,
        per_reference=None if each is None else tuple(value + by for value in each),
    )


def _files(scores: Sequence[str | Path], oracle: str | Path) -> tuple[ScoreFile, list[ScoreFile]]:
    paths = list(map(Path, scores))
    named = [path for path in paths if path.stem == str(oracle)]
    at = named[0] if named else Path(oracle)
    if not at.is_file():
        raise UserError(
            f"oracle '{oracle}': expected the stem of one of the {len(paths)} score files "
            f"({', '.join(sorted(path.stem for path in paths))}) or a file; make one with "
            "'influbench score --estimator exact --out exact.jsonl'"
        )
    others = [path for path in paths if path.resolve() != at.resolve()]
    stems = [path.stem for path in others]
    if twice := sorted({stem for stem in stems if stems.count(stem) > 1 or stem == at.stem}):
        raise UserError(
            f"expected every method once, got two files named '{twice[0]}': the stem is the "
            "method's name, rename one of them"
        )
    if not others:
        raise UserError(f"expected score files to compare with the oracle {at}, got none")
    return score_files.read(at), [score_files.read(path) for path in others]


def _scale(file: ScoreFile) -> Scale:
    told = file.about.get("scale", "rank")
    try:
        return TypeAdapter[Scale](Scale).validate_python(told)
    except ValidationError as error:
        raise UserError(
            f"'{file.name}': expected a scale of {get_args(Scale)} in its .meta.json, got {told!r}"
        ) from error


def _noisy(scores: Sequence[Score], floor: float, rng: np.random.Generator) -> list[Score]:
    # The floor is two standard deviations of the difference between two scores.
    noise = rng.normal(0.0, floor / (2 * math.sqrt(2)), len(scores))
    return [Score(id=s.id, value=s.value + float(n)) for s, n in zip(scores, noise, strict=True)]


def _costs(file: ScoreFile) -> list[dict[str, Any]]:
    if not file.ledger:
        return []
    base = blank_row("", "", file.name, seed=0)
    found = [
        {**dataclasses.asdict(row), "low": np.nan, "high": np.nan, "stderr": np.nan}
        for row in cost_rows([row for row in file.ledger if row.stage == "score"], base)
    ]
    facts = file.about.get("diagnostics", {})
    for name in ("parameter_share", "budget_used"):
        if name in facts:
            found.append({**found[0], "metric": name, "value": float(facts[name]), "unit": ""})
    return [{column: row[column] for column in COLUMNS} for row in found]


def _notes(oracle: ScoreFile, others: Sequence[ScoreFile]) -> list[str]:
    notes: list[str] = []
    bare = [file.name for file in others if not file.about]
    if bare:
        notes.append(f"without .meta.json (no costs, no sign): {', '.join(bare)}")
    notes += otherwise.differing(oracle, others)
    if not oracle.groups:
        notes.append("candidates have no group: nothing to compare within seed prompts")
    references = min((len(score.per_reference or ()) for score in oracle.scores), default=0)
    if 0 < references < against_oracle.ENOUGH_REFERENCES:
        notes.append(no_ceiling(references))
    if not references:
        notes.append(
            f"{oracle.name} has no values per reference (score --per-reference): no ceiling, and "
            "siblings' errors count as independent"
        )
    return notes
