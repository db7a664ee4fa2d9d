"""Random: a normal number from (seed, id), the control that says what no information is worth."""

from dataclasses import dataclass

from influbench.estimator import Context, Facts, Scorer


@dataclass(frozen=True)
class Random:
    """A coin for each candidate."""

    facts = Facts("rank", "control")

    def prepare(self, ctx: Context) -> Scorer:
        return lambda examples: [ctx.rng("random", e.id).standard_normal() for e in examples]
