"""LoGra: gradients projected from both sides, under each layer's own damped inverse covariance.

    G_l(z) = B_l (∇_{W_l} ℓ(z)) A_lᵀ,   rank × rank, A and B random
    F_l = mean over warm-up examples w of vec G_l(w) vec G_l(w)ᵀ
    score(z) = mean over references r of  Σ_l vec G_l(r)ᵀ (F_l + λ_l I)⁻¹ vec G_l(z)

λ_l is ``damping`` times F_l's mean eigenvalue. All linear layers that the student trains take part,
an adapter's own matrices where it trains those, but not the head; the embedding, a tied head and
the norms are left out (``parameter_share`` among the diagnostics says how much remains).

Source: Choe et al., LoGra, arXiv 2405.13954 (LogIX, random initialisation). Deviations: rank 8
where they take up to 64, since the warm-up sets here are small; references and candidates in one
batched backward pass without weight gradients (``influbench.derivatives.bottlenecks``).
Cost: 3(W + M) passes to prepare, 3 per candidate, a backward counted as two forwards as everywhere;
no weight gradients are built, so that it takes the time of about one.
"""

from dataclasses import dataclass

from influbench.estimator import Context, Examples, Facts, Scorer, Scores
from influbench.files import digest


@dataclass(frozen=True)
class Logra:
    """Two-sided projections under a layer-wise inverse covariance."""

    rank: int = 8
    damping: float = 0.1
    min_share: float = 0.0
    """Refuse to attribute a smaller share of the parameters; 0, as the method is partial."""

    facts = Facts(
        "signed",
        "LoGra, arXiv 2405.13954",
        {"gradients", "language_model", "warmup"},
        ("3W + 3M", "3"),
        stderr=True,
    )

    def __post_init__(self) -> None:
        if self.damping <= 0:
            raise ValueError(f"option 'damping' must be > 0, got {self.damping}")

    def prepare(self, ctx: Context) -> Scorer:
        """Fits the covariance on the warm-up set and applies its inverse to the references."""
        import torch

        from influbench.derivatives.bottlenecks import Bottlenecks
        from influbench.derivatives.similarity import mean_over_references

        student = ctx.language_student()
        warmup = ctx.warmup_of(1)
        project = Bottlenecks(student, self.rank, int(digest(f"logra:{ctx.seed}")[:8], 16))
        share = ctx.share(project.share(), self.min_share)
        fitted = project(warmup)
        covariance = torch.einsum("wli,wlj->lij", fitted, fitted) / len(fitted)
        mean_eigenvalue = covariance.diagonal(dim1=1, dim2=2).mean(1)
        eye = torch.eye(covariance.shape[1], dtype=covariance.dtype, device=covariance.device)
        # A layer that no warm-up example moves has no scale of its own: any damping will do.
        damped = covariance + (self.damping * mean_eigenvalue).clamp(min=1e-30)[:, None, None] * eye
        references = project(ctx.reference)
        targets = torch.linalg.solve(damped, references.permute(1, 2, 0))

        def score(examples: Examples) -> Scores:
            each = torch.einsum("zli,lir->zr", project(examples), targets).cpu().numpy()
            return mean_over_references(each, {"parameter_share": share})

        return score
