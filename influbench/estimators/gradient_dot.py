"""Gradient dot product: does a plain gradient step on the candidate go down the reference loss?

    score(z) = ⟨∇L_ref(θ), ∇ℓ(z)⟩          cosine = True:  the same divided by both norms

Source: Pruthi et al., TracIn, arXiv 2002.08484, with one checkpoint and without its learning-rate
factor. Against the exact influence under AdamW it is known to do badly (In-Run Data Shapley for
Adam, arXiv 2602.00329). The step is plain SGD's: no moments, no clipping. All weights take part,
tied embeddings and norms included, unless ``layers`` says which: influence at the embedding is said
to be unreliable (arXiv 2511.04715), and other toolkits leave it out.
Cost: 3M passes to prepare, 3 per candidate (M references; a backward counts as two forwards).
"""

from dataclasses import dataclass

import numpy as np

from influbench.estimator import Context, Examples, Facts, Scorer, Scores


@dataclass(frozen=True)
class GradientDot:
    """Inner product of gradients, or their cosine."""

    cosine: bool = False
    layers: str | None = None
    """Weights that take part, a pattern of their names such as ``mlp|self_attn``; None = all."""

    facts = Facts("signed", "TracIn, arXiv 2002.08484", {"gradients"}, ("3M", "3"), objectives=True)

    def prepare(self, ctx: Context) -> Scorer:
        """Computes the gradient of the mean reference loss."""
        from influbench.derivatives import gradients, graphed, layers, objective, step

        student = ctx.student
        update = step.next_update(student, needs_moments=False)
        update, share = layers.chosen(update, student.model, self.layers)
        weights = update.weights
        reference = objective.target(ctx).gradient(student, weights)
        reference_norm = gradients.norm(reference)
        single = graphed.one_by_one(student, weights)

        def score(examples: Examples) -> Scores:
            values = np.empty(len(examples))
            for i, example in enumerate(examples):
                gradient = single(example)
                values[i] = gradients.dot(reference, gradient)
                if self.cosine:
                    values[i] /= max(reference_norm * gradients.norm(gradient), 1e-30)
            return Scores(value=values, diagnostics={"parameter_share": share})

        return score
