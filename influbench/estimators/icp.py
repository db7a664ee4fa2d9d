"""In-context probing: does the candidate, shown as an example, help the student answer references?

    score(z) = mean over references r of  ℓ(r) - ℓ(r | z in its context)        (aggregate = "mean")
    score(z) = share of references r with ℓ(r | z in its context) < ℓ(r)        (aggregate = "wins")

ℓ is the mean negative log-likelihood of the reference's last answer, in nats per token. Reading z
takes the place of a step on it. Any context moves every loss, so zero does not mean "no help": the
scale is a rank.

Source: in-context probing, arXiv 2407.12259, which found it near to influence functions; the score
that ARTE (arXiv 2406.19227) teaches its teacher with; ``wins`` is the golden score of Nuggets
(arXiv 2312.10302). Deviation: the candidate stands in the chat template, as an exchange before.
Cost: M passes to prepare, M per candidate.
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal

import numpy as np

from influbench.data.records import Example
from influbench.estimator import Context, Examples, Facts, Scorer, Scores


@dataclass(frozen=True)
class Icp:
    """What references gain from the candidate as a one-shot example."""

    aggregate: Literal["mean", "wins"] = "mean"

    facts = Facts(
        "rank", "in-context probing, arXiv 2407.12259", {"language_model"}, ("M", "M"), stderr=True
    )

    def prepare(self, ctx: Context) -> Scorer:
        """Measures the references without an example."""
        from influbench.derivatives import gradients
        from influbench.derivatives.similarity import mean_over_references
        from influbench.student.demonstrations import shown

        student = dataclasses.replace(ctx.language_student(), learn="last")
        alone = gradients.losses(student, ctx.reference)

        def gains(example: Example) -> np.ndarray:
            gain = alone - gradients.losses(student, [shown([example], r) for r in ctx.reference])
            return gain if self.aggregate == "mean" else (gain > 0).astype(float)

        def score(examples: Examples) -> Scores:
            return mean_over_references(np.stack([gains(e) for e in examples]))

        return score
