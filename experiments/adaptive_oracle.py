"""How many reference passes does the adaptive oracle save, and is its confidence the truth?

python -m experiments.adaptive_oracle [--clusters 8] [--probes 8]

Every candidate is measured in full once; then the adaptive oracle is replayed on these numbers at
several confidences: on the real groups, on many groups drawn at random from the candidates, on the
hardest ones, groups of neighbours by first order, and on pairs of neighbours. (Neighbours by exact
score would be chosen by the answer, which no stated chance can foresee.) What is stated for a group
adds up its comparisons and so bounds the chance of an error; for a pair it is that chance.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from influbench import models, scoring
from influbench.estimators.adaptive import settling
from influbench.estimators.adaptive.adaptive import deal
from influbench.loop import pipeline
from influbench.loop import reading as presets
from influbench.progress import RichProgress
from influbench.records import Candidate, ResultRow, Score
from influbench.results import result_file
from influbench.results.provenance import provenance
from influbench.results.result_file import RunResult
from influbench.scoring import MethodConfig
from influbench.session import Session
from influbench.store import Store
from influbench.studies.scored_student import blank_row

STUDY = "adaptive_oracle"
CONFIDENCES = (0.6, 0.8, 0.9, 0.95, 0.99, 0.999)
DRAWS = 500
SIBLINGS = 4
NEAR = 4
"""Pairs are up to so many places apart."""
CONTROL = "influbench.estimators.adaptive:Clustered"


def main(
    config: Annotated[
        str, typer.Option(help="preset or file: candidates, references, student")
    ] = "experiments/smol_candidates.yaml",
    clusters: Annotated[int, typer.Option(help="parts of the reference set")] = 8,
    probes: Annotated[int, typer.Option(help="warm-up examples measured in full")] = 8,
    seed: Annotated[int, typer.Option(help="of candidates, warm-up and clusters")] = 0,
    store: Annotated[Path, typer.Option(envvar="INFLUBENCH_STORE")] = Path(".influbench"),
    results: Annotated[Path, typer.Option(help="where result files go")] = Path("results"),
) -> None:
    """Measures, replays, and writes passes and error rates by confidence."""
    cfg = presets.load_run(config, [f"seed={seed}"])
    loop = pipeline.Loop(cfg, Session(Store(store, RichProgress())), pipeline.check(cfg))
    names, exact, predicted = measure(loop, probes, clusters)
    references, candidates = len(loop.sets.reference), len(names)
    misses = settling.learn(exact[:probes] - predicted[:probes])
    replay = Replay(exact[probes:], predicted[probes:], misses, references / clusters)
    real = [[i for i, n in enumerate(names) if n == name] for name in dict.fromkeys(names)]
    rng = np.random.default_rng(seed)
    drawn = [rng.choice(candidates, SIBLINGS, replace=False).tolist() for _ in range(DRAWS)]
    prepare = (4 + probes) * references / candidates
    rows: list[ResultRow] = []
    shown = Table(
        "confidence", "groups", "stated errors", "errors", "reference passes / cand.", "saving"
    )
    ranked = np.argsort(predicted[probes:].mean(axis=1)).tolist()
    close = [ranked[i : i + SIBLINGS] for i in range(candidates - SIBLINGS + 1)]
    pairs = [[a, b] for d in range(1, NEAR + 1) for a, b in zip(ranked, ranked[d:], strict=False)]
    siblings = [g for g in real if len(g) > 1]
    kinds = {"real": siblings, "drawn": drawn, "close": close, "pairs": pairs}
    for kind, groups in kinds.items():
        for confidence in CONFIDENCES:
            found = replay.run(groups, confidence)
            saving = (references + 2 * references / candidates) / (found.passes + prepare)
            shown.add_row(
                f"{confidence}",
                f"{len(groups)} {kind}",
                f"{found.stated:.4f}",
                f"{found.errors:.4f}",
                f"{found.passes:.2f} + {prepare:.2f} to prepare",
                f"{saving:.1f}x",
            )
            blank = blank_row(STUDY, f"seed={seed}", f"adaptive@{confidence}", seed)
            blank = replace(blank, n=len(groups))
            binomial = (found.errors * (1 - found.errors) / len(groups)) ** 0.5
            rows += [
                replace(blank, metric=f"error_rate_{kind}", value=found.errors, stderr=binomial),
                replace(blank, metric=f"stated_error_rate_{kind}", value=found.stated),
                replace(blank, metric=f"passes_{kind}", value=found.passes, unit="passes"),
                replace(blank, metric=f"saving_{kind}", value=saving),
            ]
    Console(width=120).print(shown)
    Console().print(
        f"spread of scores {exact[probes:].mean(axis=1).std():.2e}; first order misses by "
        f"{misses.mean:.1e} on average, {misses.between**0.5:.1e} between candidates, "
        f"{misses.within**0.5:.1e} between clusters"
    )
    now = datetime.datetime.now(datetime.UTC)
    result = RunResult(
        config=cfg.model_dump(mode="json"),
        provenance=provenance(
            now, device=models.device_in_words(cfg.device), threads=torch.get_num_threads()
        ),
        rows=rows,
        ledger=loop.session.ledger,
    )
    result_file.write(results, STUDY, f"seed={seed}", result)


def measure(
    loop: pipeline.Loop, probes: int, clusters: int
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Groups of the candidates; exact and predicted scores of probes and candidates, by cluster."""
    cfg, reference = loop.cfg, loop.sets.reference
    teacher, student = (models.resolve(m.name, m.revision) for m in (cfg.teacher, cfg.student))
    warmup = loop.generate(teacher, cfg.sizes.warmup, "round1-warmup")
    written = loop.generate(teacher, cfg.sizes.candidates, "round1-candidates")
    warmed = loop.warm_up(student, warmup)
    parts = deal(len(reference), clusters, cfg.seed)

    def by_cluster(scores: Sequence[Score]) -> np.ndarray:
        each = np.array([score.per_reference for score in scores])
        weights = [len(part) * len(parts) / len(reference) for part in parts]
        columns = [each[:, p].mean(axis=1) * w for p, w in zip(parts, weights, strict=True)]
        return np.stack(columns, axis=1)

    def score(rows: Sequence[Candidate], name: str, label: str, **options: int) -> list[Score]:
        method = MethodConfig(estimator=name, options=options, seed=cfg.seed, device=cfg.device)
        examples = ([row.example() for row in part] for part in (rows, warmup))
        inputs = next(examples), reference, next(examples), warmed
        return loop.session.run(scoring.STAGE, method, *inputs, label=label).records(
            "scores", Score
        )

    asked = warmup[:probes]
    exact = [*score(asked, "exact", "probes"), *score(written, "exact", "exact")]
    linear = score([*asked, *written], CONTROL, "clustered", clusters=clusters)
    return [c.group for c in written], by_cluster(exact), by_cluster(linear)


@dataclass(frozen=True)
class Replayed:
    """What the adaptive oracle does on groups whose answer is known."""

    errors: float
    """Share of the groups with another best-worst pair."""
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
            beliefs = [settling.Belief(self.predicted[i], []) for i in group]
            settling.settle(
                beliefs,
                self.misses,
                "best_worst",
                confidence,
                lambda member, cluster, group=group: float(self.exact[group[member], cluster]),
            )
            left = settling.doubts(beliefs, self.misses, "best_worst")
            stated += min(1.0, sum(chance for chance, _ in left))
            found = np.array([belief.estimate(self.misses)[0] for belief in beliefs])
            truth = self.exact[group].mean(axis=1)
            wrong += (found.argmax(), found.argmin()) != (truth.argmax(), truth.argmin())
            measured += sum(len(belief.measured) for belief in beliefs)
        count = len(groups)
        return Replayed(wrong / count, stated / count, measured * self.size / sum(map(len, groups)))


if __name__ == "__main__":
    typer.run(main)
