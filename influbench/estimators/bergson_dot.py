"""Gradient dot product through bergson, in an environment of its own.

    score(z) = Σ_l ⟨∇_l L_ref(θ), ∇_l ℓ(z)⟩

The weights of all linear layers but the output embedding take part; biases, the embedding, a tied
head and the norms are left out (``parameter_share`` among the diagnostics says how much remains),
so this is ``gradient_dot`` over those weights.

Source: bergson 2.5.1 (EleutherAI, arXiv 2606.11660), its in-memory collector and scorer,
unprojected gradients, ``loss_reduction`` mean. Deviations: the references are averaged first, which
is linear, so there is no score a reference. Runs in bergson's own environment over files
(``influbench.foreign``), which counts its passes.
Cost: 3M passes to prepare, 3 per candidate.
"""

from dataclasses import dataclass

from influbench.estimator import Context, Facts, Scorer

UNIT = "inner product of gradients, mean nats a response token"


@dataclass(frozen=True)
class BergsonDot:
    """bergson's gradient dot product over linear layers."""

    batch_tokens: int = 512
    """Padded tokens in one batch; bergson computes the logits of all of them."""
    min_share: float = 0.0
    """Refuse to attribute a smaller share of the parameters; 0, as the method is partial."""

    facts = Facts(
        "signed", "TracIn, arXiv 2002.08484 (bergson)", {"gradients", "language_model"}, ("3M", "3")
    )

    def prepare(self, ctx: Context) -> Scorer:
        """Starts the worker, which collects the mean reference gradient."""
        from influbench import foreign

        called = foreign.worker("bergson_dot", "bergson", UNIT)
        options = {"method": "dot", "tokens": self.batch_tokens}
        return foreign.scorer(called, ctx, options, min_share=self.min_share)
