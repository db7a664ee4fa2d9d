"""Pairwise judging: how often does the judge prefer the candidate to others, in both orders?

    score(z) = mean over opponents o of  [P(A | z as A, o as B) + P(B | o as A, z as B)] / 2

Opponents are warm-up examples: those written for the candidate's own seed prompt where there are
any, filled up with others drawn from (seed, seed prompt). Siblings therefore meet the same
opponents, and a candidate's score does not depend on which siblings happen to be scored with it, as
a tournament's would. Both orders are always asked, since judges prefer a position (a 135M model:
0.68 for the first).

Source: pairwise LLM-as-a-Judge, Zheng et al., arXiv 2306.05685; the opponents are our own choice.
Cost: nothing to prepare, 2 · ``opponents`` requests per candidate.
"""

from dataclasses import dataclass

import numpy as np

from influbench.data.records import Example
from influbench.estimator import Context, Examples, Facts, Scorer
from influbench.files import digest


@dataclass(frozen=True)
class JudgePairwise:
    """Share of comparisons won by the run's judge."""

    opponents: int = 2
    retries: int = 2
    """How often an unreadable reply is asked for again."""
    max_tokens: int = 256

    def __post_init__(self) -> None:
        if self.opponents < 1:
            raise ValueError(f"option 'opponents' must be at least 1, got {self.opponents}")

    @property
    def facts(self) -> Facts:
        """Both orders are asked of each opponent."""
        requests = f"{2 * self.opponents} requests"
        source = "MT-Bench pairwise judge, arXiv 2306.05685"
        return Facts("rank", source, {"judge", "warmup"}, ("0", requests))

    def prepare(self, ctx: Context) -> Scorer:
        """Takes the judge and the warm-up set."""
        from influbench.judging import Request, rubric

        judge = ctx.ask_judge()
        pool = ctx.warmup_of(self.opponents)

        def opponents(example: Example) -> list[Example]:
            key = example.group or example.id
            order = sorted(pool, key=lambda o: digest(f"{ctx.seed}:{key}:{o.id}"))
            order.sort(key=lambda o: not o.group or o.group != example.group)
            return order[: self.opponents]

        def score(examples: Examples) -> np.ndarray:
            requests = [
                Request(
                    id=f"judge_pairwise:{e.id}:{o.id}:{'first' if first is e else 'second'}",
                    messages=rubric.comparing(first, second),
                    choices=("A", "B"),
                    max_tokens=self.max_tokens,
                    answers=(first.response, second.response),
                )
                for e in examples
                for o in opponents(e)
                for first, second in ((e, o), (o, e))
            ]
            says_a = np.array(rubric.ask_all(judge, requests, retries=self.retries))
            both = says_a.reshape(len(examples), self.opponents, 2)
            return ((both[:, :, 0] + 1 - both[:, :, 1]) / 2).mean(axis=1)

        return score
