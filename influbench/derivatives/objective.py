"""What the references are for: the objective that a score predicts the drop of.

    nll        mean over references r of ℓ(r)
    weighted   Σ w_r ℓ(r) / Σ w_r
    reward     mean over r of R_r ℓ(r)
    dpo        mean over r of -log σ(β · m_r),
               m_r = [log p(chosen) - log p(rejected)] - the same of the student before any step

ℓ is the mean negative log-likelihood of the response tokens; DPO's log-likelihoods are sums over
them, and its reference model is the student as it is, so m_r = 0 before the step and its gradient
there is the difference of two. A negative reward asks for a less likely response.

All of them are functions of losses of examples, so their gradient is a weighted sum of gradients,
and their exact change needs no more than losses before and after.

Source: DPO, arXiv 2305.18290, as a target of attribution in ROSE, arXiv 2412.00631;
reward-weighted likelihood as in NICE (ICML 2025), whose policy gradient it is, with our mean over
tokens; weighted references as in PRISM, arXiv 2605.21422.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from influbench.data.records import Example
from influbench.derivatives import gradients
from influbench.derivatives.gradients import Tensors
from influbench.errors import UserError
from influbench.estimator import Array, Context, Objective, Student

Values = Callable[[Array], Array]
"""Losses of :attr:`Target.examples`, in nats, to something of them."""


@dataclass(frozen=True)
class Target:
    """The objective of some references on a student."""

    examples: tuple[Example, ...]
    """Whose losses it is made of; what belongs to one reference stands together."""
    values: Values
    """Losses, shape [example], to the objective of each reference; the mean of it is the whole."""
    slopes: Values
    """Losses to the derivative of each reference's objective by them, shape [example]."""
    importance: Array
    """How much each reference counts, shape [reference], for methods that compare directions."""
    linear: bool
    """Whether slopes are the same everywhere."""

    def gradient(self, student: Student, weights: Tensors) -> Tensors:
        """Gradient of the whole objective where the weights are now."""
        count = len(self.importance)
        return self._sum(student, weights, self.examples, self._slopes(student) / count)

    def each_gradient(self, student: Student, weights: Tensors) -> Sequence[Callable[[], Tensors]]:
        """Gradient of each reference's objective where the weights are now, when it is called."""
        slopes, size = self._slopes(student), len(self.examples) // len(self.importance)

        def one(start: int) -> Callable[[], Tensors]:
            own = slice(start, start + size)
            return lambda: self._sum(student, weights, self.examples[own], slopes[own])

        return [one(start) for start in range(0, len(self.examples), size)]

    def _slopes(self, student: Student) -> Array:
        """At the weights as they are; only where they matter losses are measured."""
        nothing = np.zeros(len(self.examples))
        return self.slopes(nothing if self.linear else gradients.losses(student, self.examples))

    def _sum(
        self, student: Student, weights: Tensors, examples: Sequence[Example], shares: Array
    ) -> Tensors:
        if np.ptp(shares) == 0 and np.isclose(shares[0] * len(examples), 1):  # a plain mean
            return gradients.mean_gradient(student, weights, examples)
        return gradients.mean_gradient(student, weights, examples, shares)


def target(ctx: Context) -> Target:
    """The run's objective on its references, with the student as it is.

    Raises:
        UserError: a reference lacks what the objective is made of.
    """
    made = {"nll": _likelihood, "weighted": _weighted, "reward": _rewarded, "dpo": _preferred}
    return made[ctx.objective](ctx)


def examples_of(objective: Objective, references: Sequence[Example]) -> list[Example]:
    """All examples that go through the student for an objective.

    Raises:
        UserError: a reference lacks what the objective is made of.
    """
    field = {"nll": None, "weighted": "weight", "reward": "reward", "dpo": "rejected"}[objective]
    for example in references:
        if field and getattr(example, field) in (None, ""):
            raise UserError(
                f"scoring.objective = {objective} needs a field '{field}' in every reference, and "
                f"'{example.id}' has none: add it to the reference file, or use objective = nll"
            )
    if objective != "dpo":
        return list(references)
    return [
        e
        for r in references
        for e in (r, dataclasses.replace(r, id=f"{r.id}:rejected", response=r.rejected))
    ]


def _likelihood(ctx: Context) -> Target:
    return _linear(ctx, np.ones(len(ctx.reference)))


def _weighted(ctx: Context) -> Target:
    examples_of("weighted", ctx.reference)
    weights = np.array([float(e.weight or 0) for e in ctx.reference])
    if not weights.sum() > 0:
        raise UserError("scoring.objective = weighted: expected weights above 0, got none")
    return _linear(ctx, weights * len(weights) / weights.sum())


def _rewarded(ctx: Context) -> Target:
    examples_of("reward", ctx.reference)
    return _linear(ctx, np.array([float(e.reward or 0) for e in ctx.reference]))


def _linear(ctx: Context, factors: Array) -> Target:
    return Target(
        examples=tuple(ctx.reference),
        values=lambda losses: losses * factors,
        slopes=lambda _: factors,
        importance=np.abs(factors),
        linear=True,
    )


def _preferred(ctx: Context) -> Target:
    examples = tuple(examples_of("dpo", ctx.reference))
    start = gradients.losses(ctx.student, examples)
    # The sign of each log-likelihood in the margin, times its tokens: a loss is a mean over them.
    signs = np.tile([1.0, -1.0], len(ctx.reference))
    scale = ctx.dpo_beta * signs * _tokens(ctx.student, examples)

    def margins(losses: Array) -> Array:
        return (scale * (start - losses)).reshape(-1, 2).sum(axis=1)

    def slopes(losses: Array) -> Array:
        wrong = 1 / (1 + np.exp(margins(losses)))
        return scale * np.repeat(wrong, 2)

    return Target(
        examples=examples,
        values=lambda losses: np.logaddexp(0.0, -margins(losses)),
        slopes=slopes,
        importance=np.ones(len(ctx.reference)),
        linear=False,
    )


def _tokens(student: Student, examples: Sequence[Example]) -> Array:
    """Response tokens of each example; 1 for a student whose loss is no mean over tokens."""
    from influbench.student import LanguageStudent

    if not isinstance(student, LanguageStudent):
        return np.ones(len(examples))
    return np.array([float(len(student.encode(e).learned)) for e in examples])
