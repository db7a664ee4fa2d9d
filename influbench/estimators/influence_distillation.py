"""Influence Distillation: exact first-order scores of a few landmarks, carried over by a kernel.

    p(l) = ⟨D∘∇L_ref, ∇ℓ(l)⟩ of each landmark l            score(z) = k(z)ᵀ (K + λI)⁻¹ p

K and k are inner products of embeddings e, tangents of the hidden states along random directions of
the weights (``derivatives.tangents``): what forward mode sees of an example's Jacobian without its
gradient. This is kernel ridge regression without an intercept, so a candidate unlike all landmarks
scores 0. λ is chosen by leave-one-out error; ``loo_correlation`` among the diagnostics is the
Pearson correlation of the predictions so made with p.

It meets ``mates`` at the same ``budget``: one learns exact influence on embeddings, the other
first-order influence on tangents, each from that many warm-up examples. ``features = "student"``
takes the embedding of ``mates``, and ``mates`` has ``features = "tangent"``.

Source: Influence Distillation, arXiv 2505.19051 (landmarks, JVP embeddings, propagation by kernel
ridge regression). Deviations: landmarks are warm-up examples, since candidates are not known when a
method is prepared; tangents of the last layer's states, weighted by position as in ``repsim``, in
place of some first blocks' at the last token; scores only, not the weights that the paper
optimises them to.
Cost: 3M + 3·budget + 2·budget passes to prepare, 2 per candidate; 2 are one direction's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from influbench.estimator import Array, Context, Examples, Facts, Scorer, Scores, as_scores

if TYPE_CHECKING:
    from influbench.student.representations import Encoder

PENALTIES = np.logspace(-6, 3, 19)
"""Tried, as a multiple of the mean eigenvalue of K."""


@dataclass(frozen=True)
class InfluenceDistillation:
    """Kernel ridge regression from landmarks on tangents of hidden states."""

    budget: int = 128
    """Landmarks, at most the size of the warm-up set."""
    features: Literal["tangent", "student"] = "tangent"
    directions: int = 1
    """Random directions of the weights; a pass each."""

    def __post_init__(self) -> None:
        if self.budget < 4:
            raise ValueError(f"option 'budget' must be at least 4, got {self.budget}")
        if self.directions < 1:
            raise ValueError(f"option 'directions' must be at least 1, got {self.directions}")

    @property
    def facts(self) -> Facts:
        """A gradient a landmark, and an embedding of everything."""
        each = 2 * self.directions if self.features == "tangent" else 1
        return Facts(
            "rank",
            "Influence Distillation, arXiv 2505.19051",
            {"gradients", "moments", "language_model", "warmup"},
            (f"3M + {3 + each}budget", f"{each}"),
            objectives=True,
            spends="budget",
        )

    def prepare(self, ctx: Context) -> Scorer:
        """Scores the landmarks and solves for what carries their scores over."""
        from influbench.estimators.adam_jvp import AdamJvp

        landmarks = ctx.probes("influence_distillation", self.budget, at_least=4)
        encode = self._encoder(ctx)
        embedded = encode(landmarks)
        exact = AdamJvp(method="materialised").prepare(ctx)
        known = as_scores(exact(landmarks), len(landmarks)).value
        carried, left_out = kernel_ridge(embedded @ embedded.T, known)
        varied = np.ptp(left_out) and np.ptp(known)
        facts = {
            "landmarks": float(len(landmarks)),
            "loo_correlation": float(np.corrcoef(left_out, known)[0, 1]) if varied else 0.0,
        }

        def score(examples: Examples) -> Scores:
            return Scores(value=encode(examples) @ embedded.T @ carried, diagnostics=facts)

        return score

    def _encoder(self, ctx: Context) -> Encoder:
        from influbench.derivatives import tangents
        from influbench.student import representations

        student = ctx.language_student()
        if self.features == "student":
            return lambda examples: representations.hidden_states(student, examples)
        return tangents.encoder(student, self.directions, ctx.seed)


def kernel_ridge(kernel: Array, target: Array) -> tuple[Array, Array]:
    """(K + λI)⁻¹ p with the λ of least leave-one-out error.

    Args:
        kernel: K, shape [landmark, landmark].
        target: p, shape [landmark].

    Returns:
        The solution and the leave-one-out predictions, shape [landmark] each.
    """
    values, vectors = np.linalg.eigh(kernel)
    projected = vectors.T @ target
    unit = max(float(values.mean()), 1e-30)
    best: tuple[float, Array, Array] | None = None
    for penalty in PENALTIES * unit:
        inverse = 1 / (np.maximum(values, 0) + penalty)
        solution = vectors @ (inverse * projected)
        left_out = target - solution / (vectors**2 @ inverse)
        error = float(((left_out - target) ** 2).mean())
        if best is None or error < best[0]:
            best = (error, solution, left_out)
    assert best is not None
    return best[1], best[2]
