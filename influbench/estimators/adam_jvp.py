"""Directional derivative of the candidates' losses along Adam's view of the reference gradient.

    w = D ∘ ∇L_ref(θ)            D = (1-β₁)·lr/(1-β₁^t') / (√v̂ + ε), frozen at the warm-up state
    score(z) = ⟨w, ∇ℓ(z)⟩ = d/dε ℓ(z; θ + εw) at ε = 0

This is ``first_order`` with the step linearised in the gradient: the candidate's effect on v and
the training's clipping are dropped, and so is the need for the candidate's gradient: batches of
candidates go through in one of three ways that agree (``derivatives.directional``):

    jvp                  one forward pass with dual numbers; any student
    ghost                a backward pass without weight gradients; language models
    central_difference   two plain forward passes; the step is chosen, and its error measured, on
                         warm-up examples (``step``, ``step_error`` among the diagnostics); along it
                         a token may change its expert, so for routed models the others are better
    materialised         the candidate's gradient itself, one at a time: reference for the others

preconditioner = "none" sets D = 1: ``gradient_dot``. "adam_after" takes v as it would be after a
step on the references: where the warm-up left v at 0, as in the embeddings of tokens that it never
had, the frozen D is lr/ε, and a few such tokens outweigh all else in the score. ``cosine`` divides
by both norms, ‖w‖ and ‖∇ℓ(z)‖, and ``clipped`` takes ∇ℓ(z) as the training would clip it; both
need the gradient itself, hence method = "materialised".

Source: the ghost inner product of Wang et al., In-Run Data Shapley, arXiv 2406.11011. Adam's metric
with v frozen, in ghost form, was first in In-Run Data Shapley for Adam, arXiv 2602.00329, which
reports a correlation with the true marginal contribution above 0.99, where the plain gradient's is
0.11; the same D is in Influence Distillation, arXiv 2505.19051. Gradients for references and plain
passes for candidates, by a finite difference, are Forward-INF's, arXiv 2402.08922. Ours: forward
mode in that metric, exact, and a step of the difference that is chosen and its error measured.
Cost: 3M passes to prepare, 68 more where a step is chosen (on four warm-up examples) and 3 more for
ghost, which looks what it covers; per candidate 2 (jvp, central difference) or 3 (ghost,
materialised). The ghost product's backward pass is counted as two forwards, as everywhere, and
takes the time of about one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from influbench.estimator import Context, Examples, Facts, Need, Scorer, Scores

if TYPE_CHECKING:
    import torch

    from influbench.derivatives.directional import Derivative
    from influbench.derivatives.update import Update

PROBES = 4
"""Warm-up examples on which the central difference is measured."""
TRIED = 7
"""Steps that are tried (``derivatives.directional.STEPS``, whose module imports torch)."""


@dataclass(frozen=True)
class AdamJvp:
    """Derivative of the candidate's loss along the preconditioned reference gradient."""

    method: Literal["jvp", "ghost", "central_difference", "materialised"] = "jvp"
    preconditioner: Literal["adam", "adam_after", "none"] = "adam"
    """Adam's metric with v frozen at the warm-up, or with the reference gradient in it, or none."""
    cosine: bool = False
    clipped: bool = False
    """Each candidate's gradient as the training clips it; with ``layers``, by the norm of those
    weights' gradient alone."""
    step: float | None = None
    """Of the central difference, as ‖εw‖ / ‖θ‖; None = chosen on warm-up examples."""
    layers: str | None = None
    """Weights that take part, a pattern of their names such as ``mlp|self_attn``; None = all."""
    min_share: float | None = None
    """Refuse to attribute a smaller share of the trainable parameters (``ghost`` may miss some);
    None = all that ``layers`` names."""

    def __post_init__(self) -> None:
        for option in ("cosine", "clipped"):
            if getattr(self, option) and self.method != "materialised":
                raise ValueError(
                    f"option '{option}' needs the norm of each gradient: set "
                    f"method = 'materialised', got '{self.method}'"
                )

    @property
    def facts(self) -> Facts:
        """Moments where they precondition; more for some of the ways to the derivative."""
        needs: set[Need] = {"gradients"}
        if self.preconditioner != "none":
            needs.add("moments")
        if self.method == "ghost":
            needs.add("language_model")
        if self.method == "central_difference" and self.step is None:
            needs.add("warmup")
        source = "In-Run Data Shapley, arXiv 2406.11011"
        once = "3M"
        if self.method == "ghost":
            once += " + 3"
        elif "warmup" in needs:  # on each probe its gradient, and two passes a step that is tried
            once += f" + {PROBES * (3 + 2 * TRIED)}"
        each = "3" if self.method in ("ghost", "materialised") else "2"
        # A difference moves all weights twice a call.
        many = 64 if self.method == "central_difference" else 8
        return Facts("signed", source, needs, (once, each), objectives=True, at_once=many)

    def prepare(self, ctx: Context) -> Scorer:
        """Computes the direction, and chooses a step where one is needed."""
        from influbench.derivatives import layers, objective, step

        adam = self.preconditioner != "none"
        update = step.next_update(ctx.student, needs_moments=adam)
        update, share = layers.chosen(update, ctx.student.model, self.layers)
        direction = objective.target(ctx).gradient(ctx.student, update.weights)
        if adam:
            seen = direction if self.preconditioner == "adam_after" else None
            scales = update.preconditioner(seen)
            direction = [d.mul_(g) for d, g in zip(scales, direction, strict=True)]
        least = share if self.min_share is None else self.min_share
        facts = {"parameter_share": ctx.share(share, least)}
        derivative = self._derivative(ctx, update, direction, facts)

        def score(examples: Examples) -> Scores:
            return Scores(value=derivative(examples), diagnostics=facts)

        return score

    def _derivative(
        self,
        ctx: Context,
        update: Update,
        direction: list[torch.Tensor],
        facts: dict[str, float],
    ) -> Derivative:
        from influbench.derivatives import directional

        weights = update.weights
        if self.method == "jvp":
            return directional.by_forward_mode(ctx.student, weights, direction)
        if self.method == "ghost":
            student = ctx.language_student()
            ghost = directional.Ghost(student, weights, direction)
            ghost(ctx.reference[:1])
            wanted = facts["parameter_share"]
            share = ghost.share() * wanted
            least = wanted if self.min_share is None else self.min_share
            facts["parameter_share"] = ctx.share(share, least)
            return ghost
        if self.method == "central_difference":
            step = self.step
            if step is None:
                probes = ctx.warmup_of(1)[:PROBES]
                step, error = directional.chosen_step(ctx.student, weights, direction, probes)
                facts["step_error"] = error
            facts["step"] = step
            return directional.by_central_difference(ctx.student, weights, direction, step)
        return self._materialised(ctx, update, direction)

    def _materialised(
        self, ctx: Context, update: Update, direction: list[torch.Tensor]
    ) -> Derivative:
        from influbench.derivatives import gradients

        weights = update.weights
        length = gradients.norm(direction)

        def derivative(examples: Examples) -> np.ndarray:
            values = np.empty(len(examples))
            for i, example in enumerate(examples):
                gradient = gradients.gradient(ctx.student, weights, example)
                values[i] = gradients.dot(direction, gradient)
                if self.clipped:
                    values[i] *= update.scale(gradient)
                if self.cosine:
                    values[i] /= max(length * gradients.norm(gradient), 1e-30)
            return values

        return derivative
