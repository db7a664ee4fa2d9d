"""The arms of a study: ways of teaching, each a name that ``scoring.estimator`` takes.

* ``none``: the teacher is not taught (Self-Instruct, arXiv 2212.10560): the baseline.
* any estimator, such as ``random``, ``length`` or ``bm25``: its scores make pairs, DPO on them
  teaches the teacher (Montessori-Instruct, arXiv 2410.14208).
* ``flipped:ESTIMATOR``: the same with chosen and rejected of every pair exchanged. An estimator
  that helps because it is right must hurt this way round.
* ``bootstrap:ESTIMATOR``: no teaching; the candidates with the highest scores are the shots that
  the training data, and all of the next round, are written after.
* ``llm2llm``: the same with the estimator of that name (LLM2LLM, arXiv 2403.15042, as a loop): what
  the student finds hardest is what more is written of, round after round (``rounds``). A teacher is
  taught by the highest loss with ``loss`` and ``scoring.options.prefer=high``.
* ``filter:ESTIMATOR``: no teaching and nothing new written; the student learns the candidates with
  the highest scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from influbench.data.records import Candidate, Pair, Score, SeedPrompt
from influbench.errors import UserError
from influbench.files import digest

BASE = "base"
"""Not an arm: the student before any training, which stands in every table."""
BASELINE = "none"
"""The arm that teaches nothing; its student is the baseline of the win rate."""

LLM2LLM = "llm2llm"
"""An estimator, and the arm that writes after its best candidates."""

Way = Literal["untaught", "teach", "flipped", "bootstrap", "filter"]
WAYS: tuple[Way, ...] = ("flipped", "bootstrap", "filter")
"""Ways that stand before an estimator's name."""


@dataclass(frozen=True)
class Arm:
    """One way of teaching."""

    name: str
    way: Way
    estimator: str
    """Whose scores it uses; empty where none are."""

    @property
    def pairs(self) -> bool:
        """Whether the teacher is taught on pairs."""
        return self.way in ("teach", "flipped")


def parse(name: str) -> Arm:
    """The arm of that name.

    Raises:
        UserError: a way without an estimator.
    """
    if name == BASELINE:
        return Arm(name, "untaught", "")
    if name == LLM2LLM:
        return Arm(name, "bootstrap", LLM2LLM)
    way, colon, estimator = name.partition(":")
    if not colon or way not in WAYS:  # such as module:Class
        return Arm(name, "teach", name)
    if not estimator or estimator == BASELINE:
        raise UserError(
            f"arm '{name}': expected an estimator after '{way}:', for example {way}:first_order"
        )
    return Arm(name, way, estimator)


def flipped(pairs: Sequence[Pair]) -> list[Pair]:
    """The same pairs, chosen and rejected exchanged; margins change their sign."""
    return [
        replace(
            pair,
            id=f"{pair.rejected_id}>{pair.chosen_id}",
            chosen=pair.rejected,
            rejected=pair.chosen,
            chosen_id=pair.rejected_id,
            rejected_id=pair.chosen_id,
            chosen_ids=pair.rejected_ids,
            rejected_ids=pair.chosen_ids,
            margin=-pair.margin,
        )
        for pair in pairs
    ]


def best(candidates: Sequence[Candidate], scores: Sequence[Score], count: int) -> list[Candidate]:
    """The candidates with the highest scores, best first.

    Ties are broken by a digest of the id, since ids number candidates in the order written.

    Raises:
        UserError: fewer candidates than wanted.
    """
    if len(candidates) < count:
        raise UserError(
            f"expected at least {count} candidates to take the best from, got {len(candidates)}: "
            "raise sizes.candidates (bootstrap: or lower generation.num_shots; filter: or lower "
            "sizes.training)"
        )
    value = {score.id: score.value for score in scores}
    return sorted(candidates, key=lambda c: (-value[c.id], digest(c.id)))[:count]


def as_seeds(candidates: Sequence[Candidate]) -> list[SeedPrompt]:
    """Their instructions, to be shown to a teacher."""
    return [SeedPrompt(id=c.id, instruction=c.instruction) for c in candidates]
