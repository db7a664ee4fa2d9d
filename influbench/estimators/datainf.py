"""DataInf: influence with a closed form of the inverse Hessian, weight tensor by weight tensor.

    H_l⁻¹ v ≈ (1 / n λ_l) Σ_j [ v - (v·g_j) / (λ_l + ‖g_j‖²) g_j ]
    λ_l = damping · mean over j and entries of g_j²
    score(z) = Σ_l ⟨H_l⁻¹ ∇_l L_ref, ∇_l ℓ(z)⟩

g_j are the warm-up examples' gradients by tensor l. The closed form replaces the mean of inverses
by the inverse of the mean; its error grows with the size of the tensor, so it is meant for LoRA
students (each adapter matrix is a tensor), though any student is accepted. H⁻¹∇L_ref is built once,
so a candidate costs one gradient and one dot product, and gradients of the warm-up set are made
twice rather than stored.

Source: Kwon et al., DataInf, arXiv 2310.00902, and its code (``lambda_const_param`` = 10, i.e.
damping 0.1).
Cost: 3M + 6W passes to prepare, 3 per candidate.
"""

from dataclasses import dataclass

import numpy as np

from influbench.estimator import Context, Examples, Facts, Scorer, Scores


@dataclass(frozen=True)
class DataInf:
    """Closed-form inverse-Hessian influence."""

    damping: float = 0.1

    facts = Facts("signed", "DataInf, arXiv 2310.00902", {"gradients", "warmup"}, ("3M + 6W", "3"))

    def __post_init__(self) -> None:
        if self.damping <= 0:
            raise ValueError(f"option 'damping' must be > 0, got {self.damping}")

    def prepare(self, ctx: Context) -> Scorer:
        """Builds the preconditioned reference gradient from two sweeps over the warm-up set."""
        from influbench.derivatives import gradients, step

        student, warmup = ctx.student, ctx.warmup_of(1)
        weights = step.next_update(student, needs_moments=False).weights
        reference = gradients.mean_gradient(student, weights, ctx.reference)
        squares = np.zeros((len(warmup), len(weights)))
        for j, example in enumerate(warmup):
            gradient = gradients.gradient(student, weights, example)
            squares[j] = [float(g.double().square().sum()) for g in gradient]
        sizes = np.array([w.numel() for w in weights])
        lambdas = self.damping * (squares / sizes).mean(axis=0)
        lambdas = np.maximum(lambdas, 1e-30)  # a tensor that no warm-up example moves
        # What is subtracted from v: the mean over j of (v·g_j) / (λ + ‖g_j‖²) g_j.
        direction = [r.clone() for r in reference]
        for j, example in enumerate(warmup):
            gradient = gradients.gradient(student, weights, example)
            for layer, g in enumerate(gradient):
                along = float((reference[layer].double() * g.double()).sum())
                factor = along / (lambdas[layer] + squares[j, layer]) / len(warmup)
                direction[layer].sub_(g, alpha=factor)
        for tensor, damping in zip(direction, lambdas, strict=True):
            tensor.div_(float(damping))

        def score(examples: Examples) -> Scores:
            values = [
                gradients.dot(direction, gradients.gradient(student, weights, e)) for e in examples
            ]
            return Scores(value=np.array(values), diagnostics={"parameter_share": 1.0})

        return score
