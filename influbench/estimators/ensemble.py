"""Ensemble: the mean rank over several methods.

    score(z) = mean over members k of  rank of s_k(z) among s_k(warm-up set), between 0 and 1

Ranks are taken against the warm-up set and not among the candidates scored together, so a score
does not depend on its neighbours; between two warm-up scores the rank is interpolated, beyond them
all it goes on to 0 or 1 without reaching it, so that order is never lost. Units and outliers of the
members do not matter.

Source: rank averaging (Borda count); reference distribution by the warm-up set is our own choice.
Cost: the members' costs added up, plus the scoring of W warm-up examples by each.
"""

from dataclasses import dataclass

import numpy as np

from influbench.estimator import (
    Array,
    Context,
    Examples,
    Facts,
    Need,
    Scorer,
    as_scores,
    granting,
    passes,
    registry,
)


@dataclass(frozen=True)
class Ensemble:
    """Rank mean over named estimators with their default options."""

    members: tuple[str, ...] = ("first_order", "repsim")
    """Names as in ``influbench estimators``, or module:Class."""

    def __post_init__(self) -> None:
        if len(self.members) < 2 or len(set(self.members)) < len(self.members):
            raise ValueError(
                f"option 'members' must be two or more different methods, got {list(self.members)}"
            )

    @property
    def facts(self) -> Facts:
        """All that its members need, and the warm-up set to rank against."""
        built = [registry.build(name) for name in self.members]
        members = [method.facts for method in built]
        needs: set[Need] = {"warmup"}
        told = [[passes.filled(text, vars(m)) for text in m.facts.passes] for m in built]
        once, each = map(" + ".join, zip(*told, strict=True))
        cost = f"{once} + W({each})", each
        return Facts("rank", "rank averaging", needs.union(*(m.needs for m in members)), cost)

    def prepare(self, ctx: Context) -> Scorer:
        """Prepares the members and scores the warm-up set with each."""
        warmup = ctx.warmup_of(2)
        scorers = [granting.prepare(registry.build(name), ctx, name) for name in self.members]
        known = [np.sort(as_scores(scorer(warmup), len(warmup)).value) for scorer in scorers]

        def score(examples: Examples) -> np.ndarray:
            values = [as_scores(scorer(examples), len(examples)).value for scorer in scorers]
            return np.mean([rank(v, k) for v, k in zip(values, known, strict=True)], axis=0)

        return score


def rank(values: Array, known: Array) -> Array:
    """Ranks of ``values`` among ``known``, strictly increasing, in (0, 1).

    Args:
        values: shape [candidate].
        known: shape [warm-up example], sorted.
    """
    distinct, first, count = np.unique(known, return_index=True, return_counts=True)
    middle = first + (count + 1) / 2
    places = np.interp(values, distinct, middle)
    spread = float(np.ptp(distinct)) or max(float(np.abs(distinct).max()), 1.0)
    beyond = np.maximum(values - distinct[-1], 0) - np.maximum(distinct[0] - values, 0)
    room = np.where(beyond > 0, len(known) + 1 - middle[-1], middle[0])
    return (places + room * beyond / (np.abs(beyond) + spread)) / (len(known) + 1)
