"""A finished run as a result file: every number with its interval, next to what it cost."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from influbench.data.records import Outcome, ResultRow, Score
from influbench.estimator import Scale, registry
from influbench.evaluation.evaluator import Evaluated
from influbench.files import digest
from influbench.loop import arms
from influbench.loop.arms import BASE, BASELINE
from influbench.loop.midway import POSITIVE
from influbench.loop.pipeline import Marks, Round, Run
from influbench.results import CEILING, RunResult, blank_row, cost_rows, publish, row_of
from influbench.scoring import ORACLE
from influbench.statistics import against_oracle
from influbench.statistics import outcomes as statistics
from influbench.statistics.against_oracle import Agreement
from influbench.statistics.estimate import Estimate

FACTS = {
    "parameter_share": "",
    "noise_floor": "nats/token",
    "weights_moved": "",
    "budget_used": "",
}
"""What estimators report of themselves and a reader of their scores must know -> unit."""

QUALITY = {
    "win": ("win_rate", 100.0, "%"),
    "grade": ("grade", 1.0, "1-10"),
    "heldout_loss": ("heldout_loss", 1.0, "nats/token"),
    "reference_loss": ("reference_loss", 1.0, "nats/token"),
}
"""Outcome metric -> published metric, factor, unit."""
HEADLINES = {"alpaca_eval/win_rate", "mt_bench/grade", "heldout_loss", "reference_loss"}
"""Numbers of suites that are published under the names above."""
_SHORT = re.compile(r"alpaca_eval/(?=win$)|mt_bench/(?=grade_)")


def result(run: Run, study: str, run_id: str) -> RunResult:
    """All that a result file says of a run."""
    last = run.rounds[-1]
    name = run.config.scoring.estimator
    arms_of = {BASE: run.base, BASELINE: run.baseline}
    if name != BASELINE:
        arms_of[name] = last.marks
    outcomes = {
        student: {
            arm: items(marks.get(student, Evaluated()))
            for arm, marks in arms_of.items()
            if marks or arm == BASELINE
        }
        for student in (run.config.student.name, *(m.name for m in run.config.students))
    }
    own = outcomes[run.config.student.name]
    for arm, texts in run.texts.items():
        own[arm] = [*own[arm], *texts]
    for part in last.midway:
        marks = (replace(o, metric=part.named(o.metric)) for o in items(part.marks))
        own[name] = [*own[name], *marks, *part.influence()]
    return publish(
        {**run.config.model_dump(mode="json"), "methods": run.methods},
        run.config.device,
        rows(run, study, run_id),
        run,
        outcomes=outcomes.pop(run.config.student.name),
        others=outcomes,
        scores=last.scores,
        groups={c.id: c.group for c in last.candidates},
    )


def rows(run: Run, study: str, run_id: str) -> list[ResultRow]:
    """All published numbers of a run, long format."""
    name, seed = run.config.scoring.estimator, run.config.seed
    arm = arms.parse(name)

    def base(estimator: str, number: int) -> ResultRow:
        return blank_row(study, run_id, estimator, seed, number)

    out = _compared(run, base)
    for turn in run.rounds:
        if ORACLE in turn.scores:
            out += _agreement(turn, seed, base)
        for method in turn.scores:
            ledger = [r for r in run.ledger if r.stage == "score" and r.label == method]
            out += cost_rows(ledger, base(method, turn.number))
            out += [
                row_of(
                    base(method, turn.number),
                    fact,
                    Estimate(value=turn.facts[method][fact], n=1, unit=unit),
                )
                for fact, unit in FACTS.items()
                if fact in turn.facts[method]
            ]
        if arm.pairs:
            out.append(
                row_of(
                    base(name, turn.number),
                    "pairs",
                    Estimate(value=len(turn.pairs), n=len(turn.pairs), unit="pairs"),
                )
            )
            told = run.config.preferences.noise_floor is not None  # else it is what pairs have
            floor = turn.facts[arm.estimator].get("noise_floor")
            if told and turn.pairs and floor is not None:
                above = sum(pair.margin > floor for pair in turn.pairs) / len(turn.pairs)
                blank = base(name, turn.number)
                out.append(
                    row_of(blank, "pairs_above_floor", Estimate(value=above, n=len(turn.pairs)))
                )
        if name != BASELINE:
            out += _students(turn.marks, run, base(name, turn.number))
    return out + _midway(run, base)


def _compared(run: Run, base: Callable[[str, int], ResultRow]) -> list[ResultRow]:
    """What every arm is read against, and how much each arm's students learnt from.

    The latter is ``training_pairs`` and ``training_tokens``.
    """
    number = len(run.rounds)
    out = _students(run.base, run, base(BASE, number))
    for student, marks in run.baseline.items():
        out += _quality(marks, _of(base(BASELINE, number), student, run))
    return out + [
        row_of(
            _of(base(name, number), student, run),
            metric,
            Estimate(value=told[key], n=told["examples"]),
        )
        for student, reports in run.trained.items()
        for name, told in reports.items()
        for metric, key in (("training_pairs", "examples"), ("training_tokens", "response_tokens"))
    ]


def _midway(run: Run, base: Callable[[str, int], ResultRow]) -> list[ResultRow]:
    """``midway/P/…``: marks of the student of a teacher on the way; ``positive_share/P``."""
    published = {name for name, _, _ in QUALITY.values()}
    out = [
        replace(row, metric=part.named(row.metric))
        for turn in run.rounds
        for part in turn.midway
        for row in _quality(part.marks, base(run.config.scoring.estimator, turn.number))
        if row.metric in published
    ]
    for arm, shares in run.positive_shares.items():
        blank = base(arm, len(run.rounds))
        out += [row_of(blank, f"{POSITIVE}/{p:.3g}", share) for p, share in shares.items()]
    return out


def _students(marks: Marks, run: Run, base: ResultRow) -> list[ResultRow]:
    """An arm's students: their marks, and how far each is from the untaught teacher's."""
    out: list[ResultRow] = []
    for student, found in marks.items():
        row = _of(base, student, run)
        out += _quality(found, row)
        out += _change(items(found), items(run.baseline[student]), row)
    return out


def _of(row: ResultRow, student: str, run: Run) -> ResultRow:
    return row if student == run.config.student.name else replace(row, student=student)


def _agreement(turn: Round, seed: int, base: Callable[[str, int], ResultRow]) -> list[ResultRow]:
    others = {m: tuple(scores) for m, scores in turn.scores.items() if m != ORACLE}
    found = _agreements(
        tuple(turn.scores[ORACLE]),
        tuple(others.items()),
        tuple((c.id, c.group) for c in turn.candidates),
        seed,
    )
    out: list[ResultRow] = []
    for method, metrics in found.items():
        for metric, item in metrics.items():
            if item.defined:
                out.append(row_of(base(method, turn.number), metric, item))
    return out


@functools.lru_cache(maxsize=4)  # the runs of a study share their scores: one bootstrap for all
def _agreements(
    oracle: tuple[Score, ...],
    others: tuple[tuple[str, tuple[Score, ...]], ...],
    groups: tuple[tuple[str, str], ...],
    seed: int,
) -> dict[str, Agreement]:
    rng = np.random.default_rng(seed)
    scales: dict[str, Scale] = {method: registry.build(method).facts.scale for method, _ in others}
    found = against_oracle.agreement_table(oracle, dict(others), dict(groups), scales, rng)
    return {**found, CEILING: against_oracle.ceiling(oracle, dict(groups), rng)}


def items(marks: Evaluated) -> list[Outcome]:
    """A student's outcomes; those behind the headline numbers by their short names."""
    return [replace(o, metric=_SHORT.sub("", o.metric)) for o in marks.outcomes()]


def _quality(marks: Evaluated, base: ResultRow) -> list[ResultRow]:
    out: list[ResultRow] = []
    for metric, found in _by_metric(items(marks)).items():
        if metric not in QUALITY:
            continue
        name, factor, unit = QUALITY[metric]
        # Seeded by the metric: an interval does not depend on which others there are.
        rng = np.random.default_rng(int(digest(f"{base.seed}:{name}"), 16))
        mean = statistics.summary(found, rng).scaled(factor, unit)
        out.append(row_of(base, name, mean))
    for name, number in marks.numbers().items():
        if name not in HEADLINES:
            out.append(row_of(base, name, number))
    return out


def _change(
    outcomes: Sequence[Outcome], baseline: Sequence[Outcome], base: ResultRow
) -> list[ResultRow]:
    """How far the student is from the untaught teacher's, item by item: ``heldout_loss_change``."""
    ours, theirs = _by_metric(outcomes)["heldout_loss"], _by_metric(baseline)["heldout_loss"]
    rng = np.random.default_rng(int(digest(f"{base.seed}:heldout_loss_change"), 16))
    found = statistics.difference(ours, theirs, rng)
    return [row_of(base, "heldout_loss_change", replace(found, unit=QUALITY["heldout_loss"][2]))]


def _by_metric(outcomes: Iterable[Outcome]) -> Mapping[str, list[Outcome]]:
    found: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        metric = "grade" if outcome.metric.startswith("grade_") else outcome.metric
        found.setdefault(metric, []).append(outcome)
    return found
