"""EK-FAC influence through kronfluence, in an environment of its own.

    G_l ≈ (U_S ⊗ U_A) diag(Λ) (U_S ⊗ U_A)ᵀ      Λ = mean over warm-up examples of (U_Sᵀ ∇_l U_A)²
    score(z) = Σ_l ⟨(G_l + λI)⁻¹ ∇_l L_ref, ∇_l ℓ(z)⟩

U_A and U_S are the eigenvectors of the covariances of layer l's inputs and output gradients, fitted
on the warm-up set with labels sampled from the model (the true Fisher). ``damping`` is λ; None is
kronfluence's 0.1 × mean of Λ_l, layer by layer. All linear layers but the output embedding take
part with their biases; the embedding, a tied head and the norms are left out (``parameter_share``
among the diagnostics says how much remains).

strategy: ``ekfac``, ``kfac``, ``diagonal``, or ``identity``, which is the gradient dot product over
the same layers and needs no warm-up set.

Source: Grosse et al., arXiv 2308.03296, in kronfluence 1.0.1. Deviations: sampled labels are
weighted so that the curvature is that of the mean loss over response tokens; the reference gradient
is aggregated and preconditioned once, so there is no score a reference. Runs in kronfluence's own
environment over files (``influbench.foreign``), which counts its passes.
Cost: 6W + 3M passes to prepare and an eigendecomposition a layer, 3 per candidate.
"""

from dataclasses import dataclass
from typing import Literal

from influbench.estimator import Context, Facts, Need, Scorer

UNIT = "gradient · inverse curvature · gradient, mean nats a response token"


@dataclass(frozen=True)
class Ekfac:
    """kronfluence's inverse curvature between the reference gradient and the candidate's."""

    strategy: Literal["ekfac", "kfac", "diagonal", "identity"] = "ekfac"
    damping: float | None = None
    """λ; None = 0.1 × the mean eigenvalue of each layer."""
    min_share: float = 0.0
    """Refuse to attribute a smaller share of the parameters; 0, as the method is partial."""

    def __post_init__(self) -> None:
        if self.damping is not None and self.damping <= 0:
            raise ValueError(f"option 'damping' must be > 0, got {self.damping}")

    @property
    def facts(self) -> Facts:
        """The warm-up set fits the curvature, if there is one."""
        source = "EK-FAC, arXiv 2308.03296 (kronfluence)"
        if self.strategy == "identity":
            return Facts("signed", source, {"gradients", "language_model"}, ("3M", "3"))
        needs: set[Need] = {"gradients", "language_model", "warmup"}
        return Facts("signed", source, needs, ("6W + 3M", "3"))

    def prepare(self, ctx: Context) -> Scorer:
        """Starts the worker, which fits the factors and preconditions the reference gradient."""
        from influbench import foreign

        called = foreign.worker("ekfac", "kronfluence", UNIT)
        warmup = () if self.strategy == "identity" else ctx.warmup_of(1)
        options = {"strategy": self.strategy, "damping": self.damping}
        return foreign.scorer(called, ctx, options, min_share=self.min_share, warmup=warmup)
