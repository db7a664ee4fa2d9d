"""First-order influence with the optimizer's own step: no reference pass per candidate.

    score(z) = -⟨∇L_ref(θ + u(0)), u(∇ℓ(z)) - u(0)⟩  (+ offset)

u is the true nonlinear AdamW step with the warm-up's moments and clipping (``derivatives.step``),
centred on the empty step as ``exact`` with ``baseline="null"`` is, so both estimate one quantity in
one unit. What it drops is the curvature of the reference loss along the step, which barely moves
ranks but does move the signs of scores near zero. ``curvature = "calibrated"`` adds its mean,
measured as exact minus first-order score on ``probes`` warm-up examples. What remains is
reported as a standard deviation: where ``curvature_offset`` does not exceed ``curvature_residual``
(both among the diagnostics) the calibration adds noise and is not worth its price. Warm-up examples
have been trained on, so their curvature may differ from the candidates'.

Source: first-order Taylor expansion of the local data influence of Montessori-Instruct (arXiv
2410.14208); optimizer-aware influence as in arXiv 2605.18814, which looks some steps ahead. That
first order is good for one step and decays with the horizon: FiMODA, arXiv 2412.03906. The
reference gradient is taken at θ + u(0), the point around which the exact influence is centred.
Cost: 3M passes to prepare (and probes · (M + 6) + 2M to calibrate), 3 per candidate, plus
element-wise work over the weights.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from influbench.estimator import Array, Context, Examples, Facts, Need, Scorer, Scores, as_scores

SOURCE = "Taylor expansion of arXiv 2410.14208"


@dataclass(frozen=True)
class FirstOrder:
    """Inner product of the reference gradient with the step that the candidate would cause."""

    curvature: Literal["none", "calibrated"] = "none"
    clip: bool = True
    """Clip the gradient as the training does."""
    probes: int = 8
    """Exact evaluations for the calibration, at most the size of the warm-up set."""

    def __post_init__(self) -> None:
        if self.probes < 2:
            raise ValueError(f"option 'probes' must be at least 2, got {self.probes}")

    @property
    def facts(self) -> Facts:
        """A warm-up set, to calibrate on."""
        needs: set[Need] = {"gradients", "moments"}
        if self.curvature == "none":
            return Facts("nats", SOURCE, needs, ("3M", "3"), objectives=True)
        needs.add("warmup")
        passes = "5M + probes(M+6)", "3"
        return Facts("nats", SOURCE, needs, passes, objectives=True, spends="probes")

    def prepare(self, ctx: Context) -> Scorer:
        """Computes the gradient of the mean reference loss after the empty step."""
        import torch

        from influbench.derivatives import graphed, objective, step

        student = ctx.student
        update = step.next_update(student, clip=self.clip)
        weights = update.weights
        target = objective.target(ctx)
        saved = [w.detach().clone() for w in weights]
        try:
            update.apply(None)
            reference = target.gradient(student, weights)
        finally:
            with torch.no_grad():
                for weight, before in zip(weights, saved, strict=True):
                    weight.copy_(before)
        del saved
        null = update.dot(reference, None)

        single = graphed.one_by_one(student, weights)

        def linear(examples: Examples) -> Array:
            return np.array([null - update.dot(reference, single(e)) for e in examples])

        if self.curvature == "none":
            return linear
        facts = self._calibrate(ctx, linear)

        def calibrated(examples: Examples) -> Scores:
            return Scores(value=linear(examples) + facts["curvature_offset"], diagnostics=facts)

        return calibrated

    def _calibrate(self, ctx: Context, linear: Scorer) -> dict[str, float]:
        from influbench.estimators.exact import Exact

        probes = ctx.probes("first_order", self.probes)
        oracle = Exact(baseline="null", clip=self.clip)
        exact = as_scores(oracle.prepare(ctx)(probes), len(probes)).value
        missing = exact - as_scores(linear(probes), len(probes)).value
        return {
            "curvature_offset": float(missing.mean()),
            "curvature_residual": float(missing.std(ddof=1)),
            "probes": float(len(probes)),
        }
