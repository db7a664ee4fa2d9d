"""A check that an estimator keeps the promises of the contract, on small real students.

>>> from influbench.testing import check_estimator
>>> from influbench.estimators.length import Length
>>> print(check_estimator(Length()))
Length keeps its promises:
  a frozen dataclass whose facts say what it needs
  prepare leaves the student, its optimizer and all random state as they were
  the scorer leaves the student, its optimizer and all random state as they were
  one finite float64 score a candidate, with standard errors and parts that fit
  the same scores when scored twice by one scorer
  the same scores when scored one at a time
  the same scores when scored in reverse order
  the same scores when prepared again with the same seed
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from influbench.data.records import Example
from influbench.errors import UserError
from influbench.estimator import (
    Array,
    Context,
    Estimator,
    Facts,
    Scorer,
    Scores,
    Student,
    as_scores,
    granting,
)
from influbench.estimator.granting import UndeclaredNeedError
from influbench.testing import parameter_coverage, student_state
from influbench.testing.small_students import tiny_context, tiny_examples


class ContractError(AssertionError):
    """A promise of the estimator contract that a method does not keep."""


@dataclass(frozen=True)
class Report:
    """What was checked of a method that keeps its promises; printed, one line a promise."""

    name: str
    checks: tuple[str, ...]

    def __str__(self) -> str:
        return "\n  ".join([f"{self.name} keeps its promises:", *self.checks])


def check_estimator(
    estimator: Estimator,
    make_context: Callable[[Path], Context] = tiny_context,
    candidates: Sequence[Example] | None = None,
    *,
    tolerance: float = 1e-3,
) -> Report:
    """Checks every promise of the estimator contract on a small student with real Adam moments.

    Args:
        estimator: the method with its options.
        make_context: a warmed student and its data; the tiny Llama by default.
        candidates: what is scored; short texts that fit the tiny Llama by default.
        tolerance: how much batching and order may move a score, as a share of the scores' spread.

    Returns:
        What was checked; print it.

    Raises:
        ContractError: the first promise that is broken: what the method did, with the numbers.
    """
    candidates = tiny_examples("candidate", 6) if candidates is None else list(candidates)
    name = type(estimator).__name__
    facts = _declared(estimator)
    done = ["a frozen dataclass whose facts say what it needs"]
    with tempfile.TemporaryDirectory() as folder:
        ctx = make_context(Path(folder))
        before = student_state.snapshot(ctx.student)
        scorer = _prepared(estimator, ctx)
        _check_state(before, ctx.student, "prepare")
        values = _scores(scorer, candidates)
        _check_state(before, ctx.student, "the scorer")
        done += [
            f"{who} leaves the student, its optimizer and all random state as they were"
            for who in ("prepare", "the scorer")
        ]
        _check_stderr(facts, scorer(candidates))
        done.append("one finite float64 score a candidate, with standard errors and parts that fit")

        def same(got: Array, allowed: float, how: str) -> None:
            _check_close(values, got, allowed, how)
            done.append(f"the same scores when {how}")

        same(_scores(scorer, candidates), 1e-12, "scored twice by one scorer")
        singles = np.concatenate([_scores(scorer, [c]) for c in candidates])
        same(singles, tolerance, "scored one at a time")
        same(_scores(scorer, candidates[::-1])[::-1], tolerance, "scored in reverse order")
        again = _scores(_prepared(estimator, ctx), candidates)
        same(again, tolerance, "prepared again with the same seed")
    if facts.scale != "rank":
        done.append(_check_sign(estimator, make_context))
    if "gradients" in facts.needs:
        done += _check_coverage(estimator, make_context, candidates)
    return Report(name, tuple(done))


def _declared(estimator: Estimator) -> Facts:
    name = type(estimator).__name__
    parameters = getattr(type(estimator), "__dataclass_params__", None)
    if parameters is None or not parameters.frozen:
        raise ContractError(f"{name} is no frozen dataclass: write @dataclass(frozen=True)")
    facts = getattr(estimator, "facts", None)
    if not isinstance(facts, Facts):
        raise ContractError(f"{name}.facts is {facts!r}: expected Facts(scale, source, needs …)")
    return facts


def _prepared(estimator: Estimator, ctx: Context) -> Scorer:
    """Its scorer, given what its facts name."""
    name = type(estimator).__name__
    try:
        scorer = granting.prepare(estimator, ctx, name)
    except UndeclaredNeedError as error:
        raise ContractError(str(error)) from error
    if not callable(scorer):
        raise ContractError(
            f"prepare returned {type(scorer).__name__}: expected a function from candidates to "
            "their scores"
        )
    return scorer


def _scores(scorer: Callable[[Sequence[Example]], Any], examples: Sequence[Example]) -> Array:
    try:
        scores = as_scores(scorer(examples), len(examples))
    except (ValueError, UndeclaredNeedError) as error:
        raise ContractError(str(error)) from error
    if scores.value.dtype != np.float64:
        raise ContractError(f"scores have dtype {scores.value.dtype}: expected float64")
    if scores.stderr is not None:
        fits = scores.stderr.shape == scores.value.shape and np.isfinite(scores.stderr).all()
        if not fits or (scores.stderr < 0).any():
            raise ContractError("stderr must hold a finite number, 0 or more, for each candidate")
    if scores.per_reference is not None:
        means = scores.per_reference.mean(axis=1)
        if not np.allclose(means, scores.value, rtol=1e-9, atol=1e-12):
            raise ContractError("the mean of per_reference is not the value")
    return scores.value


def _check_stderr(facts: Facts, result: Any) -> None:
    given = isinstance(result, Scores) and result.stderr is not None
    if facts.stderr and not given:
        raise ContractError("its facts say stderr = True and the scores carry no standard errors")


def _check_close(expected: Array, got: Array, tolerance: float, how: str) -> None:
    spread = float(np.ptp(expected)) or float(np.abs(expected).max()) or 1.0
    worst = int(np.abs(expected - got).argmax())
    if abs(expected[worst] - got[worst]) > tolerance * spread:
        raise ContractError(
            f"candidate {worst} scored {expected[worst]:.6g}, but {got[worst]:.6g} when {how}: "
            f"more than {tolerance:g} of the spread {spread:.3g}"
        )


def _check_sign(estimator: Estimator, make_context: Callable[[Path], Context]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        ctx = make_context(Path(folder))
        only = dataclasses.replace(ctx, reference=list(ctx.reference)[:1])
        twin = dataclasses.replace(only.reference[0], id="twin")
        value = float(_scores(_prepared(estimator, only), [twin])[0])
    if not value > 0:
        raise ContractError(
            f"a copy of the only reference example scored {value:.6g}: expected > 0, "
            "since positive means that a step on it lowers the reference loss"
        )
    return f"a copy of the only reference scores above 0 ({value:.3g})"


def _check_coverage(
    estimator: Estimator,
    make_context: Callable[[Path], Context],
    candidates: Sequence[Example],
) -> list[str]:
    """A method that leaves out layers must say so (``parameter_share`` among its diagnostics)."""
    with tempfile.TemporaryDirectory() as folder:

        def fresh() -> Context:
            return make_context(Path(folder))

        result = _prepared(estimator, fresh())(candidates)
        facts = result.diagnostics if isinstance(result, Scores) else {}
        share = facts.get("parameter_share", 1.0)
        if not 0 < share <= 1 + 1e-9:
            raise ContractError(f"parameter_share is {share:g}: expected a share, above 0 up to 1")
        found = parameter_coverage.attributed(
            lambda ctx: _prepared(estimator, ctx), fresh, candidates
        )
        for part, error in found.unasked.items():
            if "does not require grad" in error:
                raise ContractError(
                    f"takes gradients by weights that are not trained (with only the student's "
                    f"{part} trained: {error}): take them by those that the optimizer steps, "
                    "derivatives.step.next_update(ctx.student, needs_moments=False).weights"
                )
        if share > found.share + 1e-6:
            raise ContractError(
                f"the scores do not notice the student's {', '.join(found.skipped)}: expected a "
                f"parameter_share of at most {found.share:.3f} among the diagnostics, got "
                f"{share:.3f}"
                + ("" if "parameter_share" in facts else " (none is given: all parameters)")
            )
        _check_refusal(estimator, fresh, candidates, share)
    noticed = ", ".join(found.noticed) or "none"
    lines = [f"parameter_share {share:.3f}, and the scores notice, each trained alone: {noticed}"]
    return lines + [
        f"not told whether they notice the {part}: trained alone, {error}"
        for part, error in found.unasked.items()
    ]


def _check_refusal(
    estimator: Any, fresh: Callable[[], Context], candidates: Sequence[Example], share: float
) -> None:
    options = {field.name for field in dataclasses.fields(estimator)}
    if "min_share" not in options or share >= 1:
        return
    strict = dataclasses.replace(estimator, min_share=(1 + share) / 2)
    try:
        _prepared(strict, fresh())(candidates)
    except UserError:
        return
    raise ContractError(
        f"min_share = {strict.min_share:.3f} is not refused though the share is {share:.3f}"
    )


def _check_state(before: dict[str, Any], student: Student, who: str) -> None:
    after = student_state.snapshot(student)
    for part, expected in before.items():
        if not student_state.same(expected, after[part]):
            raise ContractError(
                f"{who} left the student's {part} changed: put back what you change"
            )
