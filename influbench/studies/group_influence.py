"""The influence of more than one example: a batch in one step, or several steps one after another.

    influence(B₁ … B_k) = L_ref(θ after k empty steps) - L_ref(θ after steps on B₁ … B_k)

Each step is the training's own on the mean loss of its batch, with moments and step count carried
on from step to step, exactly as ``exact`` takes its single step on a single example. Adding up
single influences, as every method does that ranks examples one by one, is right only as far as the
*additivity error* is small:

    error = influence(B₁ … B_k) - Σ_s mean over z in B_s of influence(z)

It is made of curvature, of Adam's normalisation, and of momentum: a gradient goes on moving the
weights in the steps after its own, so k steps do more than k single ones.

Cost: k backward passes a batch element and M forward passes per trajectory, M for the empty one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from influbench.data.records import Example
from influbench.derivatives import gradients, step
from influbench.derivatives.similarity import mean_over_references
from influbench.estimator import Array, Batch, Context, Scores, Student, as_scores
from influbench.estimators.exact import Exact

Trajectory = Sequence[Sequence[Example]]
"""The batches of consecutive steps."""


@dataclass(frozen=True)
class Additivity:
    """What trajectories do, and what their examples' single influences add up to."""

    joint: Array
    """Shape [trajectory], nats per response token."""
    summed: Array
    """Shape [trajectory]: over the steps, the mean single influence of the step's batch."""

    @property
    def error(self) -> Array:
        """What adding up misses, shape [trajectory]."""
        return self.joint - self.summed

    @property
    def relative_error(self) -> float:
        """Root mean square of the error over that of the joint influence."""
        return float(np.sqrt(np.mean(self.error**2) / np.mean(self.joint**2)))


def group_influence(ctx: Context, trajectories: Sequence[Trajectory]) -> Scores:
    """Influence of each trajectory, with the standard error over reference items.

    Weights, moments and step count are left as they were found.

    Args:
        ctx: student, references.
        trajectories: each a sequence of batches; ``[[z]]`` is the single step of ``exact``,
            ``[batch] * k`` is k steps on one batch.
    """
    batches = ctx.student.batches(ctx.reference)
    empty: dict[int, Array] = {}
    rows = []
    for trajectory in trajectories:
        assert trajectory, "a trajectory has at least one step"
        steps = len(trajectory)
        if steps not in empty:
            empty[steps] = losses_after(ctx.student, batches, [[]] * steps)
        rows.append(empty[steps] - losses_after(ctx.student, batches, trajectory))
    return mean_over_references(np.stack(rows))


def losses_after(student: Student, batches: Sequence[Batch], trajectory: Trajectory) -> Array:
    """Losses of the references once the student has taken the steps, which are then undone.

    Args:
        student: where the trajectory starts; left as it was found.
        batches: of the references.
        trajectory: a batch a step; an empty one is the step without a gradient.

    Returns:
        Shape [reference], nats per response token.
    """
    first = step.next_update(student)
    with step.excursion(first).undone():
        update = first
        for number, batch in enumerate(trajectory):
            mean = gradients.mean_gradient(student, update.weights, batch) if batch else None
            # Before the weights move: SGD's weight decay enters its momentum.
            after = update.following(mean) if number + 1 < len(trajectory) else update
            update.apply(mean)
            update = after
        return gradients.losses_of(student, batches)


def additivity(ctx: Context, trajectories: Sequence[Trajectory]) -> Additivity:
    """Compares the influence of trajectories with the sum of their examples' single influences."""
    examples = list({e.id: e for t in trajectories for batch in t for e in batch}.values())
    scores = as_scores(Exact().prepare(ctx)(examples), len(examples)).value
    single = dict(zip([e.id for e in examples], scores, strict=True))
    summed = [sum(np.mean([single[e.id] for e in batch]) for batch in t) for t in trajectories]
    return Additivity(joint=group_influence(ctx, trajectories).value, summed=np.array(summed))
