"""MATES: a small regressor learns the exact influence from a few probes and predicts the rest.

    ŝ(z) = ⟨β, e(z)⟩ + c,    (β, c) = ridge regression of exact scores on e over ``budget`` warm-up
    examples

e is the student's own representation (as in ``repsim``), a sentence embedding, or the tangents that
``influence_distillation`` compares by, which it so meets at the same budget; the penalty is chosen
by leave-one-out error, in closed form. ``loo_correlation`` among the diagnostics is the
Pearson correlation of the leave-one-out predictions with the exact scores: what to expect of the
ranking. Where nothing was learnt it is near -1, as each prediction is then the mean of the others.

Source: Yu et al., MATES, arXiv 2406.06046. Deviations: ridge on frozen features where they
fine-tune a BERT; the probes are warm-up examples, since candidates are not known when a method is
prepared, so the regressor works on data that it was not fitted to. Predictions shrink towards the
probes' mean: a rank, no sign.
Cost: budget · (M + 4) + 2M passes to prepare, 1 per candidate; with sentence embeddings one less of
the student's for each, with tangents one more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from influbench.estimator import Array, Context, Examples, Facts, Need, Scorer, Scores, as_scores

if TYPE_CHECKING:
    from influbench.student.representations import Encoder

PENALTIES = np.logspace(-6, 3, 19)
"""Tried, as a multiple of the mean eigenvalue of the features' covariance."""


@dataclass(frozen=True)
class Mates:
    """Ridge regression on embeddings, fitted to exact scores."""

    budget: int = 128
    """Exact scores to pay for, at most the size of the warm-up set."""
    features: Literal["student", "sentence", "tangent"] = "student"
    baseline: Literal["null", "before"] = "null"

    def __post_init__(self) -> None:
        if self.budget < 4:
            raise ValueError(f"option 'budget' must be at least 4, got {self.budget}")

    @property
    def facts(self) -> Facts:
        """The budget is most of what it costs."""
        needs: set[Need] = {"gradients", "moments", "language_model", "warmup"}
        each = {"student": 1, "sentence": 0, "tangent": 2}[self.features]
        passes = f"(budget+2)M + {3 + each}budget", str(each or "1 encoder")
        return Facts(
            "rank", "MATES, arXiv 2406.06046", needs, passes, objectives=True, spends="budget"
        )

    def prepare(self, ctx: Context) -> Scorer:
        """Scores the probes exactly and fits the regressor."""
        from influbench.estimators.exact import Exact

        probes = ctx.probes("mates", self.budget, at_least=4)
        encode = self._encoder(ctx)
        exact = as_scores(Exact(baseline=self.baseline).prepare(ctx)(probes), len(probes)).value
        slope, intercept, left_out = ridge(encode(probes), exact)
        correlation = (
            np.corrcoef(left_out, exact)[0, 1] if np.ptp(left_out) and np.ptp(exact) else 0.0
        )
        facts = {"probes": float(len(probes)), "loo_correlation": float(correlation)}

        def score(examples: Examples) -> Scores:
            return Scores(value=encode(examples) @ slope + intercept, diagnostics=facts)

        return score

    def _encoder(self, ctx: Context) -> Encoder:
        from influbench.derivatives import tangents
        from influbench.student import representations

        student = ctx.language_student()
        if self.features == "tangent":
            return tangents.encoder(student, 1, ctx.seed)
        if self.features == "sentence":
            return representations.sentence_encoder("minilm-l6-v2", str(student.model.device))
        return lambda examples: representations.hidden_states(student, examples)


def ridge(features: Array, target: Array) -> tuple[Array, float, Array]:
    """Ridge regression with an intercept, penalty by leave-one-out error.

    Args:
        features: shape [probe, width].
        target: shape [probe].

    Returns:
        Slope, shape [width]; intercept; leave-one-out predictions, shape [probe].
    """
    count = len(target)
    centre, mean = features.mean(axis=0), target.mean()
    left, singular, right = np.linalg.svd(features - centre, full_matrices=False)
    projected = left.T @ (target - mean)
    unit = max(float((singular**2).sum()) / len(singular), 1e-30)
    best: tuple[float, Array, Array] | None = None
    for penalty in PENALTIES * unit:
        shrink = singular**2 / (singular**2 + penalty)
        fitted = left @ (shrink * projected) + mean
        leverage = (left**2) @ shrink + 1 / count
        left_out = target - (target - fitted) / np.maximum(1 - leverage, 1e-12)
        error = float(((left_out - target) ** 2).mean())
        if best is None or error < best[0]:
            slope = right.T @ (singular / (singular**2 + penalty) * projected)
            best = (error, slope, left_out)
    assert best is not None
    _, slope, left_out = best
    return slope, float(mean - centre @ slope), left_out
