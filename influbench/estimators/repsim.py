"""Representation similarity: does the candidate look to the student like the references?

    h(z) = Σ_t t · h_t / Σ_t t,   h_t the last hidden states of the formatted example
    score(z) = mean (or max) over references r of cos(h(z), h(r))

Source: RDS+, Ivison et al., arXiv 2503.01807, which found it best of all methods at scale.
Deviations: the mean over references is the default (they select by round robin over tasks, i.e. a
maximum).
Cost: M passes to prepare, 1 per candidate, forward only.
"""

from dataclasses import dataclass
from typing import Literal

from influbench.estimator import Context, Examples, Facts, Scorer, Scores


@dataclass(frozen=True)
class RepSim:
    """Cosine of position-weighted mean hidden states (RDS+)."""

    aggregate: Literal["mean", "max"] = "mean"

    facts = Facts("rank", "RDS+, arXiv 2503.01807", {"language_model"}, ("M", "1"), stderr=True)

    def prepare(self, ctx: Context) -> Scorer:
        """Represents the references."""
        from influbench.derivatives.similarity import cosine_scores
        from influbench.student.representations import hidden_states

        student = ctx.language_student()
        references = hidden_states(student, ctx.reference)

        def score(examples: Examples) -> Scores:
            return cosine_scores(hidden_states(student, examples), references, self.aggregate)

        return score
