"""The quirks of the released code, one switch each, and what each does to the answer.

Montessori-Instruct, arXiv 2410.14208; what was found in its code is in docs/LOG.md. All quirks that
touch the scores are here; that its DPO trains the teacher without the chat template that it is
sampled with touches the teacher only: ``dpo.no_chat_template``. Padding to 1,024 tokens
(``pad_to``) changes last bits and cost, so it is a switch of its own and not part of ``ALL``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from influbench.data.records import Candidate, Example, Score
from influbench.estimators.exact import PAPER_MODE
from influbench.files import digest
from influbench.loop import preferences
from influbench.loop.preferences import PreferenceConfig
from influbench.scoring import MethodConfig
from influbench.statistics.agreement import spearman
from influbench.statistics.bootstrap import interval
from influbench.statistics.estimate import Estimate


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
    """What a variant changes, against the corrected oracle; intervals are over groups."""

    spearman: Estimate
    """Over all candidates."""
    sign_agreement: Estimate
    """Share of the candidates whose score has the same sign."""
    pairs: Estimate
    """By the paper's sign rule."""
    same_pairs: Estimate
    """Of these, the corrected oracle's sign rule gives them too."""
    best_worst: Estimate
    """Share of the groups with the same best-worst pair."""
    spread: Estimate
    """Standard deviation of the scores over that of the corrected ones."""


def effect(
    candidates: Sequence[Candidate],
    corrected: Sequence[Score],
    variant: Sequence[Score],
    seed: int = 0,
) -> Effect:
    """Compares the scores of the same candidates.

    Args:
        candidates: what was scored.
        corrected: without any quirk.
        variant: with one or more.
        seed: of the resampled groups; the same for all variants.
    """
    right, seen = (np.array([s.value for s in scores]) for scores in (corrected, variant))
    ours, theirs = (_pairs("sign", candidates, scores) for scores in (corrected, variant))
    best, other = (_pairs("best_worst", candidates, scores) for scores in (corrected, variant))
    names = [candidate.group for candidate in candidates]
    groups = [[i for i, n in enumerate(names) if n == name] for name in dict.fromkeys(names)]
    of_group = {name: number for number, name in enumerate(dict.fromkeys(names))}
    alike = np.full(len(groups), np.nan)
    for pair in best:
        alike[of_group[pair[0]]] = pair in other

    def over_groups(statistic: Callable[[np.ndarray], float], n: int) -> Estimate:
        rng = np.random.default_rng(int(digest(f"paper_mode:{seed}"), 16))
        numbers = np.arange(len(groups))
        return replace(interval(numbers, statistic, rng), n=n)

    def over_rows(function: Callable[[np.ndarray, np.ndarray], float]) -> Estimate:
        def statistic(drawn: np.ndarray) -> float:
            rows = [row for number in drawn for row in groups[number]]
            return function(right[rows], seen[rows])

        return over_groups(statistic, len(candidates))

    def counted(found: set[tuple[str, str]]) -> Estimate:
        return Estimate(value=float(len(found)), n=len(candidates), unit="pairs")

    def share(drawn: np.ndarray) -> float:
        told = alike[drawn][~np.isnan(alike[drawn])]
        return float(told.mean()) if len(told) else math.nan

    return Effect(
        spearman=over_rows(spearman),
        sign_agreement=over_rows(lambda x, y: float(np.mean(np.sign(x) == np.sign(y)))),
        pairs=counted(theirs),
        same_pairs=counted(ours & theirs),
        best_worst=over_groups(share, len(best)),
        spread=over_rows(lambda x, y: float(y.std() / x.std()) if np.ptp(x) else math.nan),
    )


def _pairs(
    rule: preferences.Rule, candidates: Sequence[Candidate], scores: Sequence[Score]
) -> set[tuple[str, str]]:
    """Group and id of each pair."""
    built = preferences.build_pairs(PreferenceConfig(rule=rule), candidates, scores)
    return {(pair.group, pair.id) for pair in built}
