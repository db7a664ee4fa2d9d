"""The quirks of the released code, one switch each, and what each does to the answer.

Montessori-Instruct, arXiv 2410.14208; what was found in its code is in docs/LOG.md. All quirks that
touch the scores are here; that its DPO trains the teacher without the chat template that it is
sampled with touches the teacher only: ``dpo.no_chat_template``. Padding to 1,024 tokens
(``pad_to``) changes last bits and cost, so it is a switch of its own and not part of ``ALL``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from influbench.data.records import Candidate, Example, Score
from influbench.estimators.exact import PAPER_MODE
from influbench.loop import preferences
from influbench.loop.preferences import PreferenceConfig
from influbench.scoring import MethodConfig
from influbench.statistics.agreement import spearman


@dataclass(frozen=True, kw_only=True)
class Variant:
    """The exact influence with one quirk or more."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of weights, moments and reference passes."""
    compute: Literal["float32", "bfloat16"] = "float32"
    """Of the matrix products alone."""
    capitalize: bool = False
    """``str.capitalize`` on the instruction, which also lower-cases the rest of it."""

    def method(self, **given: Any) -> MethodConfig:
        """How to score with it."""
        return MethodConfig(
            estimator="exact",
            options=dict(self.options),
            dtype=self.dtype,
            compute=self.compute,
            max_length=PAPER_MODE["pad_to"],  # examples are cut there
            **given,
        )

    def examples(self, candidates: Sequence[Candidate]) -> list[Example]:
        """The candidates as it sees them."""
        plain = [c.example() for c in candidates]
        if not self.capitalize:
            return plain
        return [replace(e, instruction=e.instruction.capitalize()) for e in plain]


CORRECTED = Variant(name="corrected")
_OPTIONS = MappingProxyType({k: v for k, v in PAPER_MODE.items() if k != "pad_to"})
QUIRKS = (
    *(Variant(name=key, options={key: value}) for key, value in _OPTIONS.items()),
    Variant(name="bf16_compute", compute="bfloat16"),
    Variant(name="bf16_weights", dtype="bfloat16"),
    Variant(name="capitalize", capitalize=True),
)
ALL = Variant(name="all", options=_OPTIONS, dtype="bfloat16", capitalize=True)


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What a variant changes, against the corrected oracle."""

    spearman: float
    """Over all candidates."""
    sign_agreement: float
    """Share of the candidates whose score has the same sign."""
    pairs: int
    """By the paper's sign rule."""
    same_pairs: int
    """Of these, the corrected oracle's sign rule gives them too."""
    best_worst: float
    """Share of the groups with the same best-worst pair."""
    spread: float
    """Standard deviation of the scores over that of the corrected ones."""


def effect(
    candidates: Sequence[Candidate], corrected: Sequence[Score], variant: Sequence[Score]
) -> Effect:
    """Compares the scores of the same candidates.

    Args:
        candidates: what was scored.
        corrected: without any quirk.
        variant: with one or more.
    """
    right, seen = (np.array([s.value for s in scores]) for scores in (corrected, variant))
    ours, theirs = (_pairs("sign", candidates, scores) for scores in (corrected, variant))
    best, other = (_pairs("best_worst", candidates, scores) for scores in (corrected, variant))
    return Effect(
        spearman=float(spearman(right, seen)),
        sign_agreement=float(np.mean(np.sign(right) == np.sign(seen))),
        pairs=len(theirs),
        same_pairs=len(ours & theirs),
        best_worst=len(best & other) / len(best) if best else float("nan"),
        spread=float(seen.std() / right.std()),
    )


def _pairs(
    rule: preferences.Rule, candidates: Sequence[Candidate], scores: Sequence[Score]
) -> set[str]:
    return {p.id for p in preferences.build_pairs(PreferenceConfig(rule=rule), candidates, scores)}
