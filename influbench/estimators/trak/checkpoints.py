"""Several states of one student: what ``trak`` averages its features over."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from influbench.estimator import Context

if TYPE_CHECKING:
    from influbench.derivatives.gradients import Tensors
    from influbench.derivatives.step import Excursion


@dataclass(frozen=True)
class Checkpoint:
    """A state of the student's weights; None is the one that it is in."""

    trip: Excursion | None = None
    weights: Tensors | None = None

    @contextmanager
    def placed(self) -> Generator[None]:
        """The student in this state; afterwards as it was."""
        if self.trip is None or self.weights is None:
            yield
            return
        import torch

        with self.trip.undone():
            with torch.no_grad():
                for weight, other in zip(self.trip.update.weights, self.weights, strict=True):
                    weight.copy_(other)
            yield


def following(ctx: Context, count: int) -> list[Checkpoint]:
    """The student, and the ``count - 1`` states that its training would come to next.

    Each is a step of its own optimizer further, on a share of the warm-up set: all of them together
    see it once more. Costs 3 passes of the warm-up set, and a copy of the weights a state.
    """
    found = [Checkpoint()]
    if count == 1:
        return found
    from influbench.derivatives import gradients, step

    student, rows = ctx.student, ctx.warmup_of(count - 1)
    update = step.next_update(student)
    trip = step.excursion(update)
    with trip.undone():
        for number in range(count - 1):
            mean = gradients.mean_gradient(student, update.weights, rows[number :: count - 1])
            after = update.following(mean)
            update.apply(mean)
            update = after
            found.append(Checkpoint(trip, [w.detach().clone() for w in update.weights]))
    return found
