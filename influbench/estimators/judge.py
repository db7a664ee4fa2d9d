"""Judge rating: a language model grades each candidate from 1 to 5.

    score(z) = Σ_k k · P(grade k | rubric, z)    or, without probabilities, the written grade

The expectation over the grades' probabilities breaks the ties of a five-point scale (G-Eval, arXiv
2303.16634). A reply that cannot be read is asked for again; one that stays unreadable stops the
scoring with a line that names the candidate, since a made-up grade would be a silent lie.

Source: the "LLM-as-a-Judge" ablation of Montessori-Instruct (arXiv 2410.14208), whose rubric is not
published: the wording here is our own (``influbench.judging.rubric``). Similar: AlpaGasus, arXiv
2307.08701.
Cost: nothing to prepare, one request per candidate.
"""

from dataclasses import dataclass

import numpy as np

from influbench.estimator import Context, Examples, Facts, Scorer


@dataclass(frozen=True)
class JudgeRating:
    """Grades by the run's judge."""

    retries: int = 2
    """How often an unreadable reply is asked for again."""
    max_tokens: int = 256
    """Limit of a written reply; a judge that thinks aloud needs room for it."""

    facts = Facts("rank", "LLM-as-a-Judge in arXiv 2410.14208", {"judge"}, ("0", "1 request"))

    def prepare(self, ctx: Context) -> Scorer:
        """Takes the judge; the student and the references play no part."""
        from influbench.judging import Request, rubric

        judge = ctx.ask_judge()

        def score(examples: Examples) -> np.ndarray:
            requests = [
                Request(
                    id=f"judge:{e.id}",
                    messages=rubric.grading(rubric.QUALITY, e),
                    choices=rubric.GRADES,
                    max_tokens=self.max_tokens,
                    answers=(e.response,),
                )
                for e in examples
            ]
            return np.array(rubric.ask_all(judge, requests, retries=self.retries))

        return score
