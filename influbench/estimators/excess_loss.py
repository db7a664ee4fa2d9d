"""Excess loss: how much easier to say is the candidate after a few steps on the references?

    score(z) = ℓ(z; θ_k⁰) - ℓ(z; θ_k)        (baseline = "null")
    score(z) = ℓ(z; θ)    - ℓ(z; θ_k)        (baseline = "before")

θ_k is the student after k of its optimizer's own steps on the mean reference loss, θ_k⁰ after k
empty ones: warmed moments move the weights by themselves, and what the candidate gains from that is
none of the references' doing. With k = 1 this is a one-sided difference along the step that
``adam_jvp`` takes the derivative along. References and candidate change their parts: gradients are
taken of the references only, and each candidate costs forward passes alone. In bf16, weights or
products, most of a small step rounds away: ``weights_moved`` among the diagnostics is the share of
the weights that θ_k changes there.

Source: Forward-INF (Mirrored Influence, arXiv 2402.08922); RHO (arXiv 2206.07137) and RHO-1 take
the excess over a model trained on the references to the end. Deviations: the training's own AdamW
steps with its moments and clipping; the empty steps are our default, ``before`` is theirs.
Cost: 3kM passes to prepare, 2 per candidate. Memory: two copies of the weights.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from influbench.estimator import Context, Examples, Facts, Need, Scorer, Scores

if TYPE_CHECKING:
    from influbench.derivatives.gradients import Tensors


@dataclass(frozen=True)
class ExcessLoss:
    """Drop of the candidate's loss when the student steps on the references."""

    k: int = 1
    """Steps on the reference set."""
    baseline: Literal["null", "before"] = "null"
    clip: bool = True
    """Clip the references' gradient as the training does."""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"option 'k' must be at least 1, got {self.k}")

    @property
    def facts(self) -> Facts:
        """A gradient over all references a step."""
        passes = f"{3 * self.k}M", "2"
        needs: set[Need] = {"gradients", "moments"}
        # Weights are put in place twice a call.
        return Facts("signed", "Forward-INF, arXiv 2402.08922", needs, passes, at_once=64)

    def prepare(self, ctx: Context) -> Scorer:
        """Takes the steps, keeps where they lead, and puts the weights back."""
        from influbench.derivatives import gradients, step

        student = ctx.student
        first = step.next_update(student, clip=self.clip)
        trip = step.excursion(first)
        facts: dict[str, float] = {}

        def after(empty: bool) -> Tensors:
            with trip.undone():
                update = first
                for number in range(self.k):
                    mean = None
                    if not empty:
                        mean = gradients.mean_gradient(student, first.weights, ctx.reference)
                    # Before the weights move: SGD's weight decay enters its momentum.
                    after = update.following(mean) if number + 1 < self.k else update
                    update.apply(mean)
                    update = after
                if not empty:
                    facts.update(trip.told(student))
                return [weight.detach().clone() for weight in first.weights]

        learnt = after(empty=False)
        start = after(empty=True) if self.baseline == "null" else None

        @contextmanager
        def placed(weights: Tensors | None) -> Generator[None]:
            import torch

            with trip.undone():
                if weights is not None:
                    with torch.no_grad():
                        for weight, other in zip(first.weights, weights, strict=True):
                            weight.copy_(other)
                yield

        def score(examples: Examples) -> Scores:
            with placed(start):
                before = gradients.losses(student, examples)
            with placed(learnt):
                value = before - gradients.losses(student, examples)
            return Scores(value=value, diagnostics=facts)

        return score
