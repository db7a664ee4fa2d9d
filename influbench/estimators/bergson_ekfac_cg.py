"""EK-FAC + CG through bergson, in an environment of its own.

    G = mean over warm-up examples of J_tᵀ (diag(p_t) - p_t p_tᵀ) J_t, mean over response tokens t
    x solves (G + Λ) x = ∇L_ref by conjugate gradients, preconditioned by EK-FAC, from EK-FAC's x
    score(z) = ⟨x, ∇ℓ(z)⟩

J are the Jacobians of the logits and p the probabilities: the Gauss-Newton matrix itself, of which
``ekfac`` has an approximation, blockwise by layer and Kronecker-factored. Λ is λ in every direction
of a layer; None is 10 × the layer's mean eigenvalue of EK-FAC. The weights of all linear layers but
the output embedding take part; biases, the embedding, a tied head and the norms are left out
(``parameter_share`` among the diagnostics says how much remains). ``cg_residual`` there is
‖∇L_ref - (G + Λ) x‖ as a share of ‖∇L_ref‖ after the last step.

Source: ASTRA, arXiv 2507.14740, as bergson 2.5.1 (EleutherAI, arXiv 2606.11660) solves it with
``astra.solver: cg``: "EKFAC + CG" of its leaderboard, and that entry's damping and number of steps.
Deviations: G is of the whole warm-up set, where the board draws 256 documents for each query; the
references are averaged first, so there is no score a reference. Runs in bergson's own environment
over files (``influbench.foreign``), which counts its passes.
Cost: (10 + 4steps)W + 3M passes to prepare and an eigendecomposition a layer, 3 per candidate.
"""

from dataclasses import dataclass

from influbench.estimator import Context, Facts, Scorer

UNIT = "gradient · inverse curvature · gradient, mean nats a response token"


@dataclass(frozen=True)
class BergsonEkfacCg:
    """bergson's inverse Gauss-Newton matrix between the reference and the candidate, by CG."""

    steps: int = 20
    """Of the conjugate gradients: each is a pass with tangents, and one back, over the warm-up."""
    damping: float | None = None
    """λ; None = 10 × the mean eigenvalue of each layer."""
    batch_tokens: int = 512
    """Padded tokens in one batch; bergson computes the logits of all of them."""
    min_share: float = 0.0
    """Refuse to attribute a smaller share of the parameters; 0, as the method is partial."""

    facts = Facts(
        "signed",
        "ASTRA, arXiv 2507.14740 (bergson, EK-FAC + CG)",
        {"gradients", "language_model", "warmup"},
        ("(10 + 4steps)W + 3M", "3"),
    )

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"option 'steps' must be at least 1, got {self.steps}")
        if self.damping is not None and self.damping <= 0:
            raise ValueError(f"option 'damping' must be > 0, got {self.damping}")

    def prepare(self, ctx: Context) -> Scorer:
        """Starts the worker, which fits EK-FAC and solves for the mean reference gradient."""
        from influbench import foreign

        called = foreign.worker("bergson_ekfac_cg", "bergson", UNIT)
        warmup = ctx.warmup_of(1)
        options = {
            "method": "ekfac_cg",
            "tokens": self.batch_tokens,
            "steps": self.steps,
            "damping": self.damping,
        }
        return foreign.scorer(called, ctx, options, min_share=self.min_share, warmup=warmup)
