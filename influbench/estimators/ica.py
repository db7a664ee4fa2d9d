"""In-context approximation: do a few references in its context make the candidate easier to say?

    score(z) = ℓ(z) - ℓ(z | r_1 … r_k in its context)

ℓ is the mean negative log-likelihood of the candidate's last answer, in nats per token. Reading
the references takes the place of training on them: where their reading helps the candidate, so
would a step on them, and gradients are symmetric. Any context moves every loss, so zero does not
mean "no help": the scale is a rank.

The k references are drawn from the seed, the same for all candidates, and stand as exchanges before
each; ``draws`` averages over several draws. A model with ``packed`` passes reads what they share
once a batch.

Source: holdout loss in context, arXiv 2510.14459, in place of the loss of a model trained on the
references (RHO, arXiv 2206.07137). Deviation: the demonstrations stand in the chat template.
Cost: nothing to prepare, 1 + draws forward passes per candidate, all but one of them long.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np

from influbench.data.records import Example
from influbench.estimator import Context, Examples, Facts, Scorer
from influbench.files import digest


@dataclass(frozen=True)
class Ica:
    """What the candidate's loss gains from a context of references."""

    k: int = 2
    """References in the context, at most as many as there are."""
    draws: int = 1
    """Draws of them that scores are averaged over."""

    def __post_init__(self) -> None:
        for name in ("k", "draws"):
            if getattr(self, name) < 1:
                raise ValueError(f"option '{name}' must be at least 1, got {getattr(self, name)}")

    @property
    def facts(self) -> Facts:
        """A pass with each draw, and one without any."""
        source = "in-context approximation, arXiv 2510.14459"
        return Facts("rank", source, {"language_model"}, ("0", f"{1 + self.draws}"), spends="draws")

    def prepare(self, ctx: Context) -> Scorer:
        """Draws the references."""
        from influbench.derivatives import gradients
        from influbench.student.demonstrations import shown

        student = dataclasses.replace(ctx.language_student(), learn="last")
        drawn = [self._drawn(ctx, number) for number in range(self.draws)]

        def score(examples: Examples) -> np.ndarray:
            rows = [gradients.losses(student, [shown(d, e) for e in examples]) for d in drawn]
            return gradients.losses(student, examples) - np.mean(rows, axis=0)

        return score

    def _drawn(self, ctx: Context, number: int) -> list[Example]:
        order = sorted(ctx.reference, key=lambda e: digest(f"ica:{ctx.seed}:{number}:{e.id}"))
        return order[: self.k]
