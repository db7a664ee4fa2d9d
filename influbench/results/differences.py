"""Which estimator made the better student: differences on the same prompts, nested in seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from influbench.records import Outcome
from influbench.results.study import BASELINE, Study
from influbench.statistics.outcomes import grid, paired_difference

CONTROL = "random"
"""What the others are compared with, where a study has it; else the student ``none``."""
METRICS = {
    "win": ("win_rate", 100.0, "%"),
    "grade": ("grade", 1.0, "1-10"),
    "heldout_loss": ("heldout_loss", 1.0, "nats/token"),
}
"""Outcome metric -> published metric, factor, unit."""
COLUMNS = ["metric", "estimator", "against", "value", "low", "high", "seeds", "prompts", "unit"]


def differences(study: Study, rng: np.random.Generator) -> pd.DataFrame:
    """Each estimator's student minus the control's, with 95 % intervals.

    The interval is a bootstrap over seeds and, within them, prompts; with one seed it is over
    prompts alone and says nothing about other seeds. An estimator that the study holds with several
    configurations in one seed is left out: its runs are different questions.

    Args:
        study: with outcomes item by item.
        rng: the only source of randomness.

    Returns:
        One row a metric and estimator, ``COLUMNS``; empty where there is nothing to compare.
    """
    found = _by_estimator(study)
    against = CONTROL if CONTROL in found else BASELINE
    rows: list[tuple[object, ...]] = []
    for metric, (name, factor, unit) in METRICS.items():
        for estimator, seeds in found.items():
            shared = sorted(seeds.keys() & found.get(against, {}).keys())
            pairs = [(seeds[s], found[against][s]) for s in shared]
            if estimator == against or not pairs or not _all_have(metric, pairs):
                continue
            _, items = grid([side for pair in pairs for side in pair], metric)
            ours, _ = grid([a for a, _ in pairs], metric, items)
            theirs, _ = grid([b for _, b in pairs], metric, items)
            gap = paired_difference(ours * factor, theirs * factor, rng)
            bounds = (gap.value, gap.low, gap.high)
            rows.append((name, estimator, against, *bounds, len(shared), len(items), unit))
    return pd.DataFrame(rows, columns=COLUMNS)


def _by_estimator(study: Study) -> dict[str, dict[int, list[Outcome]]]:
    """Outcomes by estimator and seed; two grades of a question become their mean."""
    found: dict[str, dict[int, list[Outcome]]] = {}
    several: set[str] = set()
    for run in study.runs.values():
        seed = int(run.config.get("seed", 0))
        for estimator, outcomes in run.outcomes.items():
            mine = _merged(outcomes)
            before = found.setdefault(estimator, {}).setdefault(seed, mine)
            if before != mine:
                several.add(estimator)
    return {name: seeds for name, seeds in found.items() if name not in several}


def _merged(outcomes: Sequence[Outcome]) -> list[Outcome]:
    grades: dict[str, list[float]] = {}
    for outcome in outcomes:
        if outcome.metric.startswith("grade_"):
            grades.setdefault(outcome.item, []).append(outcome.value)
    means = [
        Outcome(metric="grade", item=item, value=float(np.mean(values)))
        for item, values in grades.items()
    ]
    return [*outcomes, *means]


def _all_have(metric: str, pairs: Sequence[tuple[Sequence[Outcome], Sequence[Outcome]]]) -> bool:
    return all(any(o.metric == metric for o in side) for pair in pairs for side in pair)
