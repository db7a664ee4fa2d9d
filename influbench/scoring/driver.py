"""One estimator asked about candidates: the one driver of the loop, ``influbench score``, studies.

It gives every method the same knobs, a judge only where the method asks one, and measures the noise
floor beside the oracle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from influbench.data.records import Example, LedgerRow, ModelRef, Score
from influbench.estimator import registry
from influbench.estimator.source import source_of
from influbench.judging import JudgeConfig
from influbench.scoring import noise_floor, stage
from influbench.scoring.settings import ORACLE, MethodConfig
from influbench.scoring.spending import Counts, kept_to, used
from influbench.store.session import Session

NOISE_FLOOR = "noise_floor"
"""The fact that the measured noise floor stands under, in score units."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What one method says of the candidates, of itself, and what it cost."""

    method: MethodConfig
    """As it was asked: with a judge only where it asks one."""
    scores: Sequence[Score]
    """In the candidates' order."""
    scale: str
    facts: dict[str, float]
    """What the method reports of itself; the oracle's ``noise_floor`` too."""
    ledger: Sequence[LedgerRow]

    @property
    def noise_floor(self) -> float | None:
        """Differences up to here say nothing, in score units; None where it was not measured."""
        return self.facts.get(NOISE_FLOOR)


def score_candidates(
    session: Session,
    method: MethodConfig,
    candidates: Sequence[Example],
    reference: Sequence[Example],
    warmup: Sequence[Example],
    student: ModelRef,
    *,
    label: str = "",
) -> Scored:
    """Scores of the candidates by one method.

    Args:
        session: runs the stages.
        method: the estimator, its options and how it is run; a judge that it does not ask is left
            out, and without one it asks the default judge. A method that asks a judge is run by one
            process, which sends the requests.
        candidates: what is scored.
        reference: the pairs whose mean loss defines what helps.
        warmup: what the student was trained on.
        student: weights, and moments where the method needs them.
        label: what the stages are called; the estimator's name by default.

    Raises:
        UserError: see ``scoring.stage.score``.
    """
    built = registry.build(method.estimator, method.options)
    told = built.facts
    asks = "judge" in told.needs
    label = label or method.estimator
    if method.objective != "nll" and not told.objectives:
        session.note(
            f"{label}: does not follow scoring.objective = {method.objective}; its scores are for "
            "the likelihood of the references"
        )
        method = method.model_copy(update={"objective": "nll"})
    method = method.model_copy(
        update={
            "judge": (method.judge or JudgeConfig()) if asks else None,
            "workers": 1 if asks else method.workers,
            "archive": session.archive,
            "source": source_of(built),
        }
    )
    paired = method.objective == "dpo"
    limit, counts = method.budget, Counts(len(candidates), len(reference), len(warmup), paired)
    method, reference = kept_to(session, method, counts, reference, student)
    inputs = candidates, reference, warmup, student
    entries = [session.ask(stage.STAGE, method, *inputs, label=label)]
    facts = dict(entries[0].meta["diagnostics"])
    if limit.given:
        facts |= used(limit, entries[0].ledger(), counts.candidates)
        facts["references_used"] = float(len(reference))
    for note in entries[0].meta.get("notes", ()):
        session.note(f"{label}: {note}")
    if method.estimator == ORACLE:
        entries.append(session.run(noise_floor.STAGE, method, *inputs, label=label))
        facts |= entries[1].meta
    return Scored(
        method=method,
        scores=entries[0].records("scores", Score),
        scale=entries[0].meta["scale"],
        facts=facts,
        ledger=[row for entry in entries for row in entry.ledger()],
    )
