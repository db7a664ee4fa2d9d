"""TrackStar through bergson, in an environment of its own.

    φ(z) = P_l ∇_l ℓ(z) Q_lᵀ over linear layers l            R = λ R_ref + (1 - λ) R_warm-up
    score(z) = mean over references r of cos(R^-½ φ(r), R^-½ φ(z))

P and Q are random projections to ``width`` rows and columns, R a layer's second moment of φ, damped
by a tenth of its mean eigenvalue. λ is where the sorted eigenvalues of both meet at component
``components``, or at the last one that both span: directions that all references share are turned
down. The weights of all linear layers but the output embedding take part, without biases. The
diagnostics tell how much that is (``parameter_share``), the component and λ (``mixing``).

Source: Chang et al., TrackStar, arXiv 2410.17413, as ``bergson trackstar`` of bergson 2.5.1 has it
(EleutherAI, arXiv 2606.11660), in memory. Deviations: R is fitted on warm-up set and references,
since candidates are not known when a method is prepared; ``components`` ends where either set
does, beyond which eigenvalues are rounding; no optimizer moments, as in bergson's default; the
references are averaged first, so there is no score a reference. Runs in bergson's own
environment over files (``influbench.foreign``), which counts its passes.
Cost: 3W + 3M passes to prepare, 3 per candidate.
"""

from dataclasses import dataclass

from influbench.estimator import Context, Facts, Scorer

UNIT = "cosine of projected, whitened gradients"


@dataclass(frozen=True)
class BergsonTrackstar:
    """bergson's cosine of projected gradients, whitened by their second moment."""

    width: int = 16
    """Rows and columns of each layer's projected gradient; 0 projects nothing (small layers)."""
    components: int = 1000
    """Directions that are turned down; at most those that references and warm-up set both span."""
    batch_tokens: int = 512
    """Padded tokens in one batch; bergson computes the logits of all of them."""
    min_share: float = 0.0
    """Refuse to attribute a smaller share of the parameters; 0, as the method is partial."""

    facts = Facts(
        "signed",
        "TrackStar, arXiv 2410.17413 (bergson)",
        {"gradients", "language_model", "warmup"},
        ("3W + 3M", "3"),
    )

    def __post_init__(self) -> None:
        for name, least in (("width", 0), ("components", 1)):
            if getattr(self, name) < least:
                got = getattr(self, name)
                raise ValueError(f"option '{name}' must be at least {least}, got {got}")

    def prepare(self, ctx: Context) -> Scorer:
        """Starts the worker, which fits the second moments and whitens the references."""
        from influbench import foreign

        called = foreign.worker("bergson_trackstar", "bergson", UNIT)
        warmup = ctx.warmup_of(1)
        options = {
            "method": "trackstar",
            "tokens": self.batch_tokens,
            "width": self.width,
            "components": self.components,
        }
        return foreign.scorer(called, ctx, options, min_share=self.min_share, warmup=warmup)
