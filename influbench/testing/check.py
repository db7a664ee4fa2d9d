"""The kit of a method author: small real students and a check that an estimator keeps its promises.

>>> from influbench.testing import check_estimator
>>> from influbench.estimators.random import Random
>>> check_estimator(Random())
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from influbench.errors import UserError
from influbench.estimator import Array, Context, Estimator, Scores, Student, as_scores
from influbench.records import Example
from influbench.testing import parameter_coverage, student_state
from influbench.testing.small_students import (
    LeastSquares,
    SteadyJudge,
    ToyStudent,
    tiny_context,
    tiny_examples,
    tiny_student,
    toy_example,
    warmed,
)

__all__ = [
    "ContractError",
    "LeastSquares",
    "SteadyJudge",
    "ToyStudent",
    "check_estimator",
    "tiny_context",
    "tiny_examples",
    "tiny_student",
    "toy_example",
    "warmed",
]

NEEDS = ("gradients", "moments", "language_model", "judge")
"""All that an estimator may say that it needs."""


class ContractError(AssertionError):
    """A promise of the estimator contract that a method does not keep."""


def check_estimator(
    estimator: Estimator,
    make_context: Callable[[Path], Context] = tiny_context,
    candidates: Sequence[Example] | None = None,
    *,
    tolerance: float = 1e-3,
) -> None:
    """Checks every promise of the estimator contract on a small student with real Adam moments.

    Args:
        estimator: the method with its options.
        make_context: a warmed student and its data; the tiny Llama by default.
        candidates: what is scored; short texts that fit the tiny Llama by default.
        tolerance: how much batching and order may move a score, as a share of the scores' spread.

    Raises:
        ContractError: the first promise that is broken, with the numbers.
    """
    candidates = tiny_examples("candidate", 6) if candidates is None else list(candidates)
    _check_declaration(estimator)
    with tempfile.TemporaryDirectory() as folder:
        ctx = make_context(Path(folder))
        before = student_state.snapshot(ctx.student)
        scorer = estimator.prepare(ctx)
        _check_state(before, ctx.student, "prepare")
        values = _scores(scorer, candidates)
        _check_state(before, ctx.student, "the scorer")
        _check_stderr(estimator, scorer(candidates))
        _check_close(values, _scores(scorer, candidates), 1e-12, "scored twice by one scorer")
        singles = np.concatenate([_scores(scorer, [c]) for c in candidates])
        _check_close(values, singles, tolerance, "scored one at a time")
        backwards = _scores(scorer, candidates[::-1])[::-1]
        _check_close(values, backwards, tolerance, "scored in reverse order")
        again = _scores(estimator.prepare(ctx), candidates)
        _check_close(values, again, tolerance, "prepared again with the same seed")
    if estimator.scale != "rank":
        _check_sign(estimator, make_context)
    if "gradients" in _declared(estimator, "needs", ()):
        _check_coverage(estimator, make_context, candidates)


def _check_declaration(estimator: Estimator) -> None:
    parameters = vars(type(estimator)).get("__dataclass_params__")
    if parameters is None or not parameters.frozen:
        raise ContractError(f"{type(estimator).__name__} must be a frozen dataclass")
    if estimator.scale not in ("nats", "signed", "rank"):
        raise ContractError(f"scale is {estimator.scale!r}: expected 'nats', 'signed' or 'rank'")
    needs = _declared(estimator, "needs", ())
    if isinstance(needs, str) or not set(needs) <= set(NEEDS):
        raise ContractError(f"needs is {needs!r}: expected a tuple of some of {NEEDS}")


def _declared(estimator: Estimator, name: str, default: Any) -> Any:
    return vars(type(estimator)).get(name, default)


def _scores(scorer: Callable[[Sequence[Example]], Any], examples: Sequence[Example]) -> Array:
    result = scorer(examples)
    try:
        scores = as_scores(result, len(examples))
    except ValueError as error:
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


def _check_stderr(estimator: Estimator, result: Any) -> None:
    given = isinstance(result, Scores) and result.stderr is not None
    if _declared(estimator, "stderr", False) and not given:
        raise ContractError("the class says stderr = True and the scores carry no standard errors")


def _check_close(expected: Array, got: Array, tolerance: float, how: str) -> None:
    spread = float(np.ptp(expected)) or float(np.abs(expected).max()) or 1.0
    worst = int(np.abs(expected - got).argmax())
    if abs(expected[worst] - got[worst]) > tolerance * spread:
        raise ContractError(
            f"candidate {worst} scored {expected[worst]:.6g}, but {got[worst]:.6g} when {how}: "
            f"more than {tolerance:g} of the spread {spread:.3g}"
        )


def _check_sign(estimator: Estimator, make_context: Callable[[Path], Context]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ctx = make_context(Path(folder))
        only = dataclasses.replace(ctx, reference=list(ctx.reference)[:1])
        twin = dataclasses.replace(only.reference[0], id="twin")
        value = float(_scores(estimator.prepare(only), [twin])[0])
    if not value > 0:
        raise ContractError(
            f"a copy of the only reference example scored {value:.6g}: expected > 0, "
            "since positive means that a step on it lowers the reference loss"
        )


def _check_coverage(
    estimator: Estimator,
    make_context: Callable[[Path], Context],
    candidates: Sequence[Example],
) -> None:
    """A method that leaves out layers must say so (``parameter_share`` among its diagnostics)."""
    with tempfile.TemporaryDirectory() as folder:

        def fresh() -> Context:
            return make_context(Path(folder))

        result = estimator.prepare(fresh())(candidates)
        facts = result.diagnostics if isinstance(result, Scores) else {}
        share = facts.get("parameter_share", 1.0)
        if not 0 < share <= 1 + 1e-9:
            raise ContractError(f"parameter_share is {share:g}: expected a share, above 0 up to 1")
        seen, skipped = parameter_coverage.attributed(estimator, fresh, candidates)
        if share > seen + 1e-6:
            raise ContractError(
                f"the scores do not notice the student's {', '.join(skipped)}: expected a "
                f"parameter_share of at most {seen:.3f} among the diagnostics, got {share:.3f}"
                + ("" if "parameter_share" in facts else " (none is given: all parameters)")
            )
        _check_refusal(estimator, fresh, candidates, share)


def _check_refusal(
    estimator: Any, fresh: Callable[[], Context], candidates: Sequence[Example], share: float
) -> None:
    options = {field.name for field in dataclasses.fields(estimator)}
    if "min_share" not in options or share >= 1:
        return
    strict = dataclasses.replace(estimator, min_share=(1 + share) / 2)
    try:
        strict.prepare(fresh())(candidates)
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
