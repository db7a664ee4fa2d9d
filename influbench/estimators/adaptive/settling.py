"""When is an order settled? Beliefs about scores that are known cheaply and measured in part.

The score of candidate i is the mean over C clusters of references, s_i = mean_c f_ic. Of every
f_ic a cheap prediction h_ic is known; measuring one cluster gives f_ic itself. The difference
estimator over the measured clusters S::

    ŝ_i = mean over all c of h_ic + mean over c in S of (f_ic - h_ic)

is unbiased, since the clusters are random, and its variance is τ² / |S| · (1 - |S| / C): only what
the prediction misses varies. What it misses on average over clusters varies between candidates too,
with mean μ and variance σ². Probes measured in full give μ, σ² and τ²; a belief joins both sources
by their precision, and is exact when all clusters are measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal

import numpy as np
from scipy import stats

from influbench.estimator import Array

Goal = Literal["best_worst", "sign", "rank"]


@dataclass(frozen=True)
class Misses:
    """How predictions miss: of what remains when h is taken from f."""

    mean: float
    """μ."""
    between: float
    """σ², between candidates, of the miss averaged over clusters."""
    within: float
    """τ², between clusters, of one candidate's misses."""
    freedom: int
    """Degrees of freedom of σ²: probes less one."""


def learn(misses: Array) -> Misses:
    """From probes measured in full.

    Args:
        misses: shape [probe, cluster], f - h.
    """
    probes, clusters = misses.shape
    assert probes > 1
    return Misses(
        mean=float(misses.mean()),
        between=float(misses.mean(axis=1).var(ddof=1)),
        within=float(misses.var(axis=1, ddof=1).mean()) if clusters > 1 else 0.0,
        freedom=probes - 1,
    )


@dataclass
class Belief:
    """What is known of one candidate's score."""

    base: float
    """Mean over all clusters of h."""
    clusters: int
    measured: list[tuple[float, float]] = field(default_factory=list)
    """f and h of the first clusters, in their order: no other h is ever needed by itself."""

    @property
    def complete(self) -> bool:
        """Whether nothing is left to measure."""
        return len(self.measured) == self.clusters

    def estimate(self, misses: Misses) -> tuple[float, float]:
        """Mean and variance of the score."""
        count = len(self.measured)
        if not count:
            return self.base + misses.mean, misses.between
        exact, foreseen = np.array(self.measured).T
        if self.complete:
            return float(exact.mean()), 0.0
        observed = float((exact - foreseen).mean())
        variance = misses.within / count * (1 - count / self.clusters)
        if misses.between + variance == 0:
            return self.base + observed, 0.0
        weight = misses.between / (misses.between + variance)
        return self.base + weight * observed + (1 - weight) * misses.mean, weight * variance


def settle(
    beliefs: list[Belief],
    misses: Misses,
    goal: Goal,
    confidence: float,
    measure: Callable[[int, int], tuple[float, float]],
) -> None:
    """Measures, one cluster at a time, whatever the answer most hangs on, until it is settled.

    Args:
        beliefs: of siblings; they take in what is measured.
        misses: what probes taught.
        goal: see :func:`doubts`.
        confidence: of the whole answer about these siblings; for ``sign``, of each one's.
        measure: f and h of a sibling on a cluster.
    """
    while True:
        found = doubts(beliefs, misses, goal)
        chances = [chance for chance, _ in found]
        wrong = max(chances, default=0.0) if goal == "sign" else sum(chances)
        if wrong <= 1 - confidence:
            return
        for member in found[0][1]:
            belief = beliefs[member]
            if not belief.complete:
                belief.measured.append(measure(member, len(belief.measured)))


def doubts(beliefs: list[Belief], misses: Misses, goal: Goal) -> list[tuple[float, list[int]]]:
    """What may be wrong in an answer, most likely first: probability, and whom to measure.

    The sum of the probabilities bounds the chance that the answer is wrong.

    Args:
        beliefs: of siblings.
        misses: what probes taught.
        goal: ``best_worst``: who is first and who is last; ``rank``: every place; ``sign``: on
            which side of zero each is.
    """
    means, variances = np.array([b.estimate(misses) for b in beliefs]).T
    order = np.argsort(-means, kind="stable")
    found: list[tuple[float, list[int]]] = []
    if goal == "sign":
        found = [(_chance(abs(means[i]), variances[i], misses), [i]) for i in range(len(beliefs))]
    else:
        for a, b in combinations(order.tolist(), 2):
            if goal == "rank" or a == order[0] or b == order[-1]:
                chance = _chance(means[a] - means[b], variances[a] + variances[b], misses)
                found.append((chance, [a, b]))
    return sorted(found, key=lambda doubt: (-doubt[0], doubt[1]))


def _chance(gap: float, variance: float, misses: Misses) -> float:
    """That a true difference has the other sign than ``gap`` >= 0."""
    if variance == 0:
        return 0.0
    return float(stats.t.sf(gap / variance**0.5, misses.freedom))
