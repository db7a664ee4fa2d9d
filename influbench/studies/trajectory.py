"""What a student is after several steps, one after another.

Each step is the training's own on the mean loss of its batch, with moments and step count carried
on from step to step, exactly as ``exact`` takes its single step on a single example.

Cost: a backward pass a batch element and M forward passes per trajectory.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from influbench.data.records import Example
from influbench.derivatives import gradients, step
from influbench.estimator import Array, Batch, Student

Trajectory = Sequence[Sequence[Example]]
"""The batches of consecutive steps."""


def losses_along(
    student: Student, batches: Sequence[Batch], trajectory: Trajectory, at: Sequence[int]
) -> Array:
    """Losses of the references at some points of the trajectory, whose steps are then undone.

    Args:
        student: where the trajectory starts; left as it was found.
        batches: of the references.
        trajectory: a batch a step; an empty one is the step without a gradient.
        at: numbers of steps after which to measure, 1 or more, none beyond the last.

    Returns:
        Shape [point, reference], in the order of ``at``, nats per response token.
    """
    first = step.next_update(student)
    found: dict[int, Array] = {}
    with step.excursion(first).undone():
        update = first
        for number, batch in enumerate(trajectory[: max(at)], start=1):
            mean = gradients.mean_gradient(student, update.weights, batch) if batch else None
            # Before the weights move: SGD's weight decay enters its momentum.
            after = update.following(mean) if number < max(at) else update
            update.apply(mean)
            update = after
            if number in at:
                found[number] = gradients.losses_of(student, batches)
    return np.stack([found[number] for number in at])
