"""How many reference passes does the adaptive oracle save, and is its confidence the truth?

python -m experiments.adaptive_oracle [--candidates 32] [--references 64] [--clusters 8]

Every candidate is measured in full once; then the adaptive oracle is replayed on these numbers at
several confidences, on the real groups and on many groups drawn at random from the candidates.
"""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from influbench import models, pipeline, presets, result_file, scoring, settling
from influbench.estimators.adaptive import deal
from influbench.progress import RichProgress
from influbench.provenance import provenance
from influbench.records import ResultRow, Score
from influbench.result_file import RunResult
from influbench.scored_student import blank_row
from influbench.scoring import MethodConfig
from influbench.store import Store

STUDY = "adaptive_oracle"
CONFIDENCES = (0.6, 0.8, 0.9, 0.95, 0.99, 0.999)
DRAWS = 500
SIBLINGS = 4


def main(
    preset: Annotated[str, typer.Option(help="writes candidates, is the student")] = "quickstart",
    candidates: Annotated[int, typer.Option(help="in groups as the preset has them")] = 32,
    references: Annotated[int, typer.Option(help="size of the reference set")] = 64,
    clusters: Annotated[int, typer.Option(help="parts of the reference set")] = 8,
    probes: Annotated[int, typer.Option(help="warm-up examples measured in full")] = 8,
    seed: Annotated[int, typer.Option(help="of candidates, warm-up and clusters")] = 0,
    store: Annotated[Path, typer.Option(envvar="INFLUBENCH_STORE")] = Path(".influbench"),
    results: Annotated[Path, typer.Option(help="where result files go")] = Path("results"),
) -> None:
    """Measures, replays, and writes passes and error rates by confidence."""
    cfg = presets.load_run(
        preset, [f"seed={seed}", f"data.num_reference={references}", "scoring.estimator=exact"]
    )
    loop = pipeline.Loop(cfg, Store(store, RichProgress()), pipeline.check(cfg))
    names, exact, predicted = measure(loop, candidates, probes, clusters)
    misses = settling.learn(exact[:probes] - predicted[:probes])
    replay = Replay(exact[probes:], predicted[probes:], misses, references / clusters)
    real = [[i for i, n in enumerate(names) if n == name] for name in dict.fromkeys(names)]
    rng = np.random.default_rng(seed)
    drawn = [rng.choice(len(names), SIBLINGS, replace=False).tolist() for _ in range(DRAWS)]
    rows: list[ResultRow] = []
    shown = Table("confidence", "groups", "error rate", "reference passes a candidate")
    for kind, groups in (("real", real), ("drawn", drawn)):
        for confidence in CONFIDENCES:
            wrong, passes = replay.run(groups, confidence)
            shown.add_row(f"{confidence}", f"{len(groups)} {kind}", f"{wrong:.3f}", f"{passes:.2f}")
            blank = blank_row(STUDY, f"seed={seed}", f"adaptive@{confidence}", seed)
            blank = replace(blank, n=len(groups))
            rows.append(replace(blank, metric=f"error_rate_{kind}", value=wrong))
            rows.append(replace(blank, metric=f"passes_{kind}", value=passes, unit="passes"))
    Console().print(shown)
    Console().print(
        f"spread of scores {exact[probes:].mean(axis=1).std():.2e}; first order misses by "
        f"{misses.mean:.1e} on average, {misses.between**0.5:.1e} between candidates, "
        f"{misses.within**0.5:.1e} between clusters"
    )
    now = datetime.datetime.now(datetime.UTC)
    result = RunResult(
        config=cfg.model_dump(mode="json"),
        provenance=provenance(now, device="cpu", threads=torch.get_num_threads()),
        rows=rows,
        ledger=list(loop.ledger.values()),
    )
    result_file.write(results, STUDY, f"seed={seed}", result)


def measure(
    loop: pipeline.Loop, candidates: int, probes: int, clusters: int
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Groups of candidates; exact and predicted scores of probes and candidates, by cluster."""
    cfg, reference = loop.cfg, loop.sets.reference
    teacher, student = (models.resolve(m.name, m.revision) for m in (cfg.teacher, cfg.student))
    warmup = loop.generate(teacher, cfg.sizes.warmup, "round1-warmup")
    written = loop.generate(teacher, cfg.sizes.candidates, "round1-candidates")[:candidates]
    warmed = loop.warm_up(student, warmup)
    everyone = [c.example() for c in [*warmup[:probes], *written]]
    parts = deal(len(reference), clusters, cfg.seed)

    def table(name: str, **options: int) -> np.ndarray:
        method = MethodConfig(
            estimator=name, options=options, seed=cfg.seed, device=cfg.student.device
        )
        inputs = (everyone, reference, [w.example() for w in warmup], warmed)
        label = name.rpartition(":")[2].lower()
        scores = loop.do(scoring.STAGE, method, *inputs, label=label).records("scores", Score)
        each = np.array([score.per_reference for score in scores])
        weights = [len(part) * len(parts) / len(reference) for part in parts]
        columns = [each[:, p].mean(axis=1) * w for p, w in zip(parts, weights, strict=True)]
        return np.stack(columns, axis=1)

    predicted = table("influbench.estimators.adaptive:Clustered", clusters=clusters)
    return [c.group for c in written], table("exact"), predicted


class Replay:
    """The adaptive oracle on numbers that are known in full."""

    def __init__(
        self, exact: np.ndarray, predicted: np.ndarray, misses: settling.Misses, size: float
    ) -> None:
        self.exact, self.predicted, self.misses, self.size = exact, predicted, misses, size

    def run(self, groups: list[list[int]], confidence: float) -> tuple[float, float]:
        """Share of groups with another best-worst pair; references measured a candidate."""
        wrong = measured = 0
        for group in groups:
            beliefs = [settling.Belief(self.predicted[i], []) for i in group]
            settling.settle(
                beliefs,
                self.misses,
                "best_worst",
                confidence,
                lambda member, cluster, group=group: float(self.exact[group[member], cluster]),
            )
            found = np.array([belief.estimate(self.misses)[0] for belief in beliefs])
            truth = self.exact[group].mean(axis=1)
            wrong += (found.argmax(), found.argmin()) != (truth.argmax(), truth.argmin())
            measured += sum(len(belief.measured) for belief in beliefs)
        return wrong / len(groups), measured * self.size / sum(map(len, groups))


if __name__ == "__main__":
    typer.run(main)
