"""Length: characters of all that the assistant says, the control that judges are known to love."""

from dataclasses import dataclass

from influbench.estimator import Context, Facts, Scorer


@dataclass(frozen=True)
class Length:
    """Longer is better."""

    facts = Facts("rank", "control")

    def prepare(self, ctx: Context) -> Scorer:
        return lambda examples: [sum(map(len, e.answers)) for e in examples]
