"""LESS: cosine between the Adam step that the candidate asks for and each reference's gradient.

    Γ(z) = m' / √(v' + ε)                          formula = "code", the default
    Γ(z) = (m' / (1-β₁^t')) / (√(v' / (1-β₂^t')) + ε)      formula = "paper"
    m' = β₁ m + (1-β₁) ∇ℓ(z),   v' = β₂ v + (1-β₂) ∇ℓ(z)²
    score(z) = mean over references r of cos(P Γ(z), P ∇ℓ(r))

m, v and t are the warm-up's. The published numbers come from the code, whose ε is inside the root
and which does not correct the bias. Momentum is part of Γ, so zero does not mean "no help": the
scale is a rank.

Source: Xia et al., LESS, arXiv 2402.04333. Deviations: one checkpoint, hence no weighting by
learning rates; one reference set, hence no maximum over tasks; all trainable weights, LoRA or not;
the Rademacher matrix is replaced by a sign sketch of the same width (``derivatives.sketches``),
which needs no CUDA extension.
Cost: 3M passes to prepare, 3 per candidate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from influbench.data.records import Example
from influbench.errors import UserError
from influbench.estimator import Context, Examples, Facts, Scorer, Scores
from influbench.files import digest

if TYPE_CHECKING:
    import torch

    from influbench.derivatives.step import Slot


@dataclass(frozen=True)
class Less:
    """Projected Adam features and their cosine with the references' gradients."""

    proj_dim: int | None = 8192
    """Width of the sketch; None = no projection (small models only)."""
    formula: Literal["code", "paper"] = "code"
    layers: str | None = None
    """Weights that take part, a pattern of their names such as ``mlp|self_attn``; None = all."""

    facts = Facts(
        "rank",
        "LESS, arXiv 2402.04333",
        {"gradients", "moments"},
        ("3M", "3"),
        stderr=True,
        objectives=True,
    )

    def prepare(self, ctx: Context) -> Scorer:
        """Projects the references' gradients."""
        import torch

        from influbench.derivatives import gradients, layers, objective, step
        from influbench.derivatives.similarity import mean_over_references
        from influbench.derivatives.sketches import SignSketch

        student = ctx.student
        update, share = layers.chosen(step.next_update(student), student.model, self.layers)
        weights, slots = update.weights, update.slots
        if not all(slot.adam for slot in slots):
            raise UserError("estimator 'less' needs Adam's moments, got a student trained with SGD")
        if self.proj_dim is None:

            def project(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
                return torch.cat([t.reshape(-1) for t in tensors])
        else:
            project = SignSketch(weights, self.proj_dim, int(digest(f"less:{ctx.seed}")[:8], 16))

        def unit(tensors: Sequence[torch.Tensor]) -> np.ndarray:
            vector = project(tensors).double()
            return (vector / vector.norm().clamp(min=1e-30)).cpu().numpy()

        target = objective.target(ctx)
        directions = [unit(one()) for one in target.each_gradient(student, weights)]
        references = np.stack(directions) * target.importance[:, None]

        def feature(example: Example) -> np.ndarray:
            gradient = gradients.gradient(student, weights, example)
            return unit([_adam(s, g, self.formula) for s, g in zip(slots, gradient, strict=True)])

        def score(examples: Examples) -> Scores:
            cosines = np.stack([feature(e) for e in examples]) @ references.T
            return mean_over_references(cosines, {"parameter_share": share})

        return score


def _adam(slot: Slot, gradient: torch.Tensor, formula: str) -> torch.Tensor:
    """Γ for one weight."""
    beta1, beta2 = slot.betas
    moments = [m.to(gradient.device) for m in slot.moments]  # the optimizer may be elsewhere
    first = (moments[0] * beta1).add_(gradient, alpha=1 - beta1)
    second = (moments[1] * beta2).addcmul_(gradient, gradient, value=1 - beta2)
    if formula == "code":
        return first.div_(second.add_(slot.eps).sqrt_())
    count = slot.step + 1
    second.div_(1 - beta2**count).sqrt_().add_(slot.eps)
    return first.div_(1 - beta1**count).div_(second)
