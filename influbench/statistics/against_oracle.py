"""How far methods agree with the oracle, and how far the oracle agrees with itself.

Every interval is a 95 % percentile bootstrap over whole groups (a cluster bootstrap): siblings
share a seed prompt and are not independent.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from influbench.data.records import Score
from influbench.errors import UserError
from influbench.estimator import Array, Scale
from influbench.statistics.agreement import Metric, measures
from influbench.statistics.bootstrap import interval
from influbench.statistics.estimate import Estimate

Agreement = dict[str, Estimate]
"""By metric; ``n`` is what was compared: candidates, groups (``*_within``) or pairs."""

RESAMPLES = 1000
ENOUGH_REFERENCES = 32
"""Fewer leave fewer than 16 to a half, whose mean is then mostly the luck of the split."""
SPLITS = 5
"""Random halvings of the reference set that the ceiling is averaged over."""


def agreement_table(
    oracle: Sequence[Score],
    others: Mapping[str, Sequence[Score]],
    groups: Mapping[str, str],
    scales: Mapping[str, Scale],
    rng: np.random.Generator,
    *,
    oracle_scale: Scale = "nats",
    resamples: int = RESAMPLES,
) -> dict[str, Agreement]:
    """Every method against the oracle, by method and metric; undefined ones are NaN.

    * ``spearman``, ``kendall`` (tau-b): over all candidates.
    * ``spearman_within``, ``kendall_within``: in each group of two or more, then the plain mean
      over groups. A group that the oracle cannot order is left out; one that the method gives equal
      scores counts as 0, since the method says nothing there.
    * ``sign_agreement``: share of candidates with the same sign; undefined on a ``rank`` scale.
      ``sign_agreement_centred``: after each side's mean is taken off, which removes an offset that
      all candidates share, such as the drift of momentum.
    * ``pair_precision``: share of the oracle's best-and-worst pairs, one a group, that the method
      orders the same way; a tie counts one half. ``pair_precision_margin``: of all pairs of
      siblings that the oracle separates by two standard errors.
    * ``top_overlap``: share of the oracle's best quarter in the method's best quarter, ties broken
      at random in expectation; 0.25 is chance.

    Args:
        oracle: its scores.
        others: scores by method, about the same candidates in any order.
        groups: candidate id to group; candidates without one ("" or absent) stand alone.
        scales: scale by method.
        rng: the only source of randomness. Intervals do not depend on which methods are compared.
        oracle_scale: scale of the oracle.
        resamples: of the bootstrap.

    Raises:
        UserError: a method scored other candidates than the oracle.
    """
    clusters = _clusters([s.id for s in oracle], groups)
    seed = int(rng.integers(2**62))
    table: dict[str, Agreement] = {}
    for name, scores in others.items():
        zero = "rank" not in (scales[name], oracle_scale)
        metrics = measures(oracle, _aligned(name, oracle, scores), clusters, zero)
        table[name] = _estimates(metrics, len(clusters), seed, resamples)
    return table


def ceiling(
    oracle: Sequence[Score],
    groups: Mapping[str, str],
    rng: np.random.Generator,
    *,
    resamples: int = RESAMPLES,
) -> Agreement:
    """The oracle against itself on disjoint halves of the references: what agreement can reach.

    The mean over ``SPLITS`` random halvings. Half the references make a noisier oracle than all of
    them, so it understates the ceiling of the full oracle. With few references it says nothing (on
    8 it came out at -0.30 while a method agreed with all of them to 1.00): empty where the scores
    carry fewer than ``ENOUGH_REFERENCES`` values per reference.
    """
    table = [s.per_reference or () for s in oracle]
    size = min(map(len, table), default=0)
    if size < ENOUGH_REFERENCES:
        return {}
    values = np.array(table, dtype=np.float64)
    clusters = _clusters([s.id for s in oracle], groups)
    splits = []
    for _ in range(SPLITS):
        order = rng.permutation(size)
        halves = [_part(oracle, values[:, order[k::2]]) for k in (0, 1)]
        splits.append(measures(halves[0], halves[1], clusters, zero=True))
    merged = {metric: _mean_of([split[metric] for split in splits]) for metric in splits[0]}
    return _estimates(merged, len(clusters), int(rng.integers(2**62)), resamples)


def _estimates(
    metrics: Mapping[str, Metric], clusters: int, seed: int, resamples: int
) -> Agreement:
    # The same draws for every method and metric: differences between rows are not Monte Carlo.
    numbers = np.arange(clusters)
    found = {
        name: interval(numbers, metric.statistic, np.random.default_rng(seed), resamples)
        for name, metric in metrics.items()
    }
    return {name: replace(estimate, n=metrics[name].n) for name, estimate in found.items()}


def _mean_of(parts: Sequence[Metric]) -> Metric:
    return Metric(
        lambda drawn: float(np.mean([part.statistic(drawn) for part in parts])), parts[0].n
    )


def _part(oracle: Sequence[Score], values: Array) -> list[Score]:
    return [
        Score(id=s.id, value=float(row.mean()), per_reference=tuple(map(float, row)))
        for s, row in zip(oracle, values, strict=True)
    ]


def _clusters(ids: Sequence[str], groups: Mapping[str, str]) -> list[np.ndarray]:
    """Positions of the candidates of each group; a candidate without a group is its own."""
    members: dict[tuple[str, str], list[int]] = defaultdict(list)
    for position, name in enumerate(ids):
        group = groups.get(name, "")
        members[(group, "") if group else ("", name)].append(position)
    return [np.array(positions) for positions in members.values()]


def _aligned(name: str, oracle: Sequence[Score], scores: Sequence[Score]) -> list[Score]:
    by_id = {s.id: s for s in scores}
    if odd := sorted({s.id for s in oracle} ^ by_id.keys()):
        raise UserError(
            f"expected '{name}' to score the oracle's {len(oracle)} candidates, got {len(scores)}: "
            f"id '{odd[0]}' is on one side only ({len(odd)} such ids); score one file with both"
        )
    return [by_id[s.id] for s in oracle]
