"""How many reference passes does the adaptive oracle save, and is its confidence the truth?

Every candidate is measured in full once; then the adaptive oracle is replayed on these numbers at
several confidences: on the real groups, on many groups drawn at random from the candidates, on the
hardest ones, groups of neighbours by first order, and on pairs of neighbours. (Neighbours by exact
score would be chosen by the answer, which no stated chance can foresee.) What is stated for a group
adds up its comparisons and so bounds the chance of an error; for a pair it is that chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from pydantic import Field

from influbench import scoring
from influbench.data.records import Candidate, ResultRow, Score
from influbench.estimators.adaptive import settling
from influbench.estimators.adaptive.adaptive import deal
from influbench.loop import pipeline
from influbench.loop.settings import RunConfig
from influbench.loop.steps import Steps
from influbench.models.templates import templated
from influbench.results import RunResult, blank_row, publish, row_of
from influbench.scoring import MethodConfig
from influbench.statistics.outcomes import share
from influbench.store.session import Session
from influbench.studies.kind import Kind

SIBLINGS = 4
NEAR = 4
"""Pairs are up to so many places apart."""
CONTROL = "influbench.estimators.adaptive.adaptive:Clustered"
METRICS = ("saving_real", "error_rate_drawn", "stated_error_rate_drawn", "error_rate_close")


class AdaptiveConfig(RunConfig):
    """The run that writes the candidates, and what is replayed on their scores."""

    clusters: int = Field(default=8, ge=2, description="parts of the reference set")
    probes: int = Field(default=8, ge=2, description="warm-up examples measured in full")
    confidences: tuple[float, ...] = (0.6, 0.8, 0.9, 0.95, 0.99, 0.999)
    draws: int = Field(default=500, ge=1, description="groups drawn at random")


@dataclass(frozen=True)
class Measured:
    """Scores of probes, then candidates, by cluster of references: shape [example, cluster]."""

    names: Sequence[str]
    """The candidates' groups."""
    exact: np.ndarray
    predicted: np.ndarray


def run(cfg: AdaptiveConfig, session: Session, study: str, run_id: str) -> RunResult:
    """Measures, replays, and tells passes and error rates by confidence."""
    steps = Steps(cfg, session, pipeline.check(cfg))
    found = _measure(cfg, steps)
    exact, predicted = found.exact[cfg.probes :], found.predicted[cfg.probes :]
    misses = settling.learn(found.exact[: cfg.probes] - found.predicted[: cfg.probes])
    references, candidates = len(steps.sets.reference), len(found.names)
    replay = Replay(exact, predicted, misses, references / cfg.clusters)
    prepare = (4 + cfg.probes) * references / candidates
    rows: list[ResultRow] = []
    for kind, groups in _groups(cfg, found.names, predicted).items():
        for confidence in cfg.confidences:
            told = replay.run(groups, confidence)
            saving = (references + 2 * references / candidates) / (told.passes + prepare)
            blank = blank_row(study, run_id, f"adaptive@{confidence}", cfg.seed)
            blank = replace(blank, n=len(groups))
            rows += [
                row_of(blank, f"error_rate_{kind}", share(told.errors, len(groups))),
                replace(blank, metric=f"stated_error_rate_{kind}", value=told.stated),
                replace(blank, metric=f"passes_{kind}", value=told.passes, unit="passes"),
                replace(blank, metric=f"saving_{kind}", value=saving),
            ]
    session.note(
        f"spread of scores {exact.mean(axis=1).std():.2e}; first order misses by "
        f"{misses.mean:.1e} on average, {misses.between**0.5:.1e} between candidates, "
        f"{misses.within**0.5:.1e} between clusters"
    )
    return publish(cfg.model_dump(mode="json"), cfg.device, rows, session)


def _groups(
    cfg: AdaptiveConfig, names: Sequence[str], predicted: np.ndarray
) -> dict[str, list[list[int]]]:
    """Positions of candidates that compete, by kind of group."""
    rng, count = np.random.default_rng(cfg.seed), len(names)
    real = [[i for i, n in enumerate(names) if n == name] for name in dict.fromkeys(names)]
    ranked = np.argsort(predicted.mean(axis=1)).tolist()
    return {
        "real": [group for group in real if len(group) > 1],
        "drawn": [rng.choice(count, SIBLINGS, replace=False).tolist() for _ in range(cfg.draws)],
        "close": [ranked[i : i + SIBLINGS] for i in range(count - SIBLINGS + 1)],
        "pairs": [
            [a, b] for d in range(1, NEAR + 1) for a, b in zip(ranked, ranked[d:], strict=False)
        ],
    }


def _measure(cfg: AdaptiveConfig, steps: Steps) -> Measured:
    reference = steps.sets.reference
    teacher, student = (templated(m, steps.session.run) for m in (cfg.teacher, cfg.student))
    seeds = steps.sets.seeds
    warmup = steps.generate(teacher, cfg.sizes.warmup, "round1-warmup", seeds=seeds)
    written = steps.generate(
        teacher, cfg.sizes.candidates, "round1-candidates", seeds=steps.sets.seeds
    )
    warmed = steps.warm_up(student, warmup)
    parts = deal(len(reference), cfg.clusters, cfg.seed)

    def by_cluster(scores: Sequence[Score]) -> np.ndarray:
        each = np.array([score.per_reference for score in scores])
        weights = [len(part) * len(parts) / len(reference) for part in parts]
        columns = [each[:, p].mean(axis=1) * w for p, w in zip(parts, weights, strict=True)]
        return np.stack(columns, axis=1)

    def score(rows: Sequence[Candidate], name: str, label: str, **options: int) -> Sequence[Score]:
        method = MethodConfig(estimator=name, options=options, seed=cfg.seed, device=cfg.device)
        examples, warm = ([row.example() for row in part] for part in (rows, warmup))
        inputs = examples, reference, warm, warmed
        return scoring.score_candidates(steps.session, method, *inputs, label=label).scores

    asked = warmup[: cfg.probes]
    exact = [*score(asked, "exact", "probes"), *score(written, "exact", "exact")]
    linear = score([*asked, *written], CONTROL, "clustered", clusters=cfg.clusters)
    return Measured([c.group for c in written], by_cluster(exact), by_cluster(linear))


@dataclass(frozen=True)
class Replayed:
    """What the adaptive oracle does on groups whose answer is known."""

    errors: int
    """Groups with another best-worst pair."""
    stated: float
    """Mean probability of that, by its own account when it stopped."""
    passes: float
    """References measured a candidate."""


class Replay:
    """The adaptive oracle on numbers that are known in full."""

    def __init__(
        self, exact: np.ndarray, predicted: np.ndarray, misses: settling.Misses, size: float
    ) -> None:
        self.exact, self.predicted, self.misses, self.size = exact, predicted, misses, size

    def run(self, groups: list[list[int]], confidence: float) -> Replayed:
        """Settles every group from nothing."""
        wrong, stated, measured = 0, 0.0, 0
        for group in groups:
            clusters = self.predicted.shape[1]
            beliefs = [settling.Belief(float(self.predicted[i].mean()), clusters) for i in group]

            def known(member: int, cluster: int, group: list[int] = group) -> tuple[float, float]:
                place = group[member], cluster
                return float(self.exact[place]), float(self.predicted[place])

            settling.settle(beliefs, self.misses, "best_worst", confidence, known)
            left = settling.doubts(beliefs, self.misses, "best_worst")
            stated += min(1.0, sum(chance for chance, _ in left))
            found = np.array([belief.estimate(self.misses)[0] for belief in beliefs])
            truth = self.exact[group].mean(axis=1)
            wrong += (found.argmax(), found.argmin()) != (truth.argmax(), truth.argmin())
            measured += sum(len(belief.measured) for belief in beliefs)
        count = len(groups)
        return Replayed(wrong, stated / count, measured * self.size / sum(map(len, groups)))


KIND = Kind(settings=AdaptiveConfig, check=pipeline.check, run=run, metrics=METRICS)
