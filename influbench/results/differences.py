"""Which arm made the better student: differences on the same prompts, seed by seed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from influbench.data.records import Outcome
from influbench.errors import UserError
from influbench.files import digest
from influbench.results.axes import leaves, telling
from influbench.results.headline import label_of
from influbench.results.rows import BASELINE
from influbench.results.students import AXIS, named, students_of
from influbench.results.study import Study
from influbench.statistics.outcomes import grid
from influbench.statistics.seeds import paired_difference

CONTROL = "random"
"""What the others are compared with, where a study has it."""
CONTROLS = (CONTROL, f"filter:{CONTROL}")
"""In this order; where a study has none of them, the student ``none``."""
METRICS = {
    "win": ("win_rate", 100.0, "%"),
    "grade": ("grade", 1.0, "1-10"),
    "heldout_loss": ("heldout_loss", 1.0, "nats/token"),
}
"""Outcome metric -> published metric, factor, unit."""
COLUMNS = (
    "metric", "label", "estimator", "against", "value", "low", "high", "stderr", "seeds", "prompts",
    "unit",
)  # fmt: skip

Outcomes = tuple[Outcome, ...]
Place = tuple[tuple[str, Any], ...]
"""Values on some axes."""


def differences(study: Study, seed: int = 0, control: str | None = None) -> pd.DataFrame:
    """Each arm's student minus the control's, with 95 % intervals over seeds and prompts.

    Only the prompts that all students of a pair have and the seeds of both are used
    (``statistics.seeds.paired_difference``). Where the axes of a study change an arm's students,
    each place on the axes is an arm of its own, and its control is the one of the same place, or
    the control that the axes do not touch.

    Args:
        study: with outcomes item by item.
        seed: of the bootstrap; an interval does not depend on which other arms there are.
        control: the arm that the others are compared with; None for the first of ``CONTROLS`` that
            the study has, or else the student ``none``.

    Returns:
        One row a metric and arm, ``COLUMNS``; empty where there is nothing to compare.

    Raises:
        UserError: the study has no arm of the name ``control``.
    """
    arms = _arms(study)
    there = {name for name, _ in arms}
    if control is not None and control not in there:
        raise UserError(
            f"expected an arm of {study.name} to compare with, got '{control}'; it has "
            f"{', '.join(sorted(there))}"
        )
    control = control or next((name for name in CONTROLS if name in there), BASELINE)
    rows: list[tuple[Any, ...]] = []
    for metric, (name, factor, unit) in METRICS.items():
        for (estimator, place), arm in arms.items():
            if estimator == control:
                continue
            other = _control(arms, control, place)
            shared = [
                s for s in sorted(arm.keys() & other.keys()) if _has(metric, arm[s], other[s])
            ]
            if not shared:
                continue
            ours, theirs, items = _tables(
                metric, [arm[s] for s in shared], [other[s] for s in shared]
            )
            label = label_of(estimator, dict(place))
            rng = np.random.default_rng(int(digest(f"{seed}:{metric}:{label}"), 16))
            gap = paired_difference(ours * factor, theirs * factor, rng)
            numbers = (gap.value, *gap.bounds, gap.stderr, len(shared), items, unit)
            rows.append((name, label, estimator, control, *numbers))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _arms(study: Study) -> dict[tuple[str, Place], dict[int, Outcomes]]:
    """Students by estimator, place on the axes that change them, and seed."""
    found: dict[str, list[tuple[int, dict[str, Any], Outcomes]]] = defaultdict(list)
    for run, result in study.runs.items():
        settings = {**leaves(result.config), "run": run}
        for student, estimator, outcomes in students_of(result):
            seed = int(result.config.get("seed", 0))
            place = {**settings, AXIS: named(result, student)}
            found[estimator].append((seed, place, _merged(outcomes)))
    arms: dict[tuple[str, Place], dict[int, Outcomes]] = defaultdict(dict)
    for estimator, students in found.items():
        used = telling(students, study.axes)
        for seed, place, outcomes in students:
            arms[estimator, tuple((axis, place.get(axis)) for axis in used)][seed] = outcomes
    return arms


def _control(
    arms: Mapping[tuple[str, Place], dict[int, Outcomes]], name: str, place: Place
) -> dict[int, Outcomes]:
    """The control of the same place; axes that do not touch one of the two do not matter."""
    own = dict(place)
    fits = [
        arm
        for (estimator, where), arm in arms.items()
        if estimator == name and all(own.get(axis, value) == value for axis, value in where)
    ]
    return fits[0] if len(fits) == 1 else {}


def _tables(
    metric: str, ours: Sequence[Outcomes], theirs: Sequence[Outcomes]
) -> tuple[np.ndarray, np.ndarray, int]:
    _, items = grid([*ours, *theirs], metric)
    return grid(ours, metric, items)[0], grid(theirs, metric, items)[0], len(items)


def _merged(outcomes: Sequence[Outcome]) -> Outcomes:
    grades: dict[str, list[float]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.metric.startswith("grade_"):
            grades[outcome.item].append(outcome.value)
    means = [
        Outcome(metric="grade", item=item, value=float(np.mean(values)))
        for item, values in grades.items()
    ]
    # What is not compared (lengths, root verbs) tells no two students apart either.
    return (*(outcome for outcome in outcomes if outcome.metric in METRICS), *means)


def _has(metric: str, *sides: Outcomes) -> bool:
    return all(any(outcome.metric == metric for outcome in side) for side in sides)
