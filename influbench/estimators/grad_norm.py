"""Gradient norm: how hard does the candidate pull at the weights, wherever it pulls them to?

    score(z) = ‖∇ℓ(z)‖

A control without references: what a gradient method gains over this is what direction adds to
length.

Source: the GradNorm baseline of GREATS (NeurIPS 2024). All trainable weights, mean loss over
response tokens, before clipping.
Cost: nothing to prepare, 3 per candidate.
"""

from dataclasses import dataclass

import numpy as np

from influbench.estimator import Context, Examples, Facts, Scorer


@dataclass(frozen=True)
class GradNorm:
    """Euclidean norm of the candidate's gradient."""

    facts = Facts("rank", "GradNorm of GREATS, NeurIPS 2024", {"gradients"}, ("0", "3"))

    def prepare(self, ctx: Context) -> Scorer:
        """Looks up the weights."""
        from influbench.derivatives import gradients, graphed, step

        weights = step.next_update(ctx.student, needs_moments=False).weights
        single = graphed.one_by_one(ctx.student, weights)

        def score(examples: Examples) -> np.ndarray:
            return np.array([gradients.norm(single(e)) for e in examples])

        return score
