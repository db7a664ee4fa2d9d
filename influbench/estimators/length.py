"""Length: characters of the response, the control that judges are known to love."""

from dataclasses import dataclass

from influbench.estimator import Context, Facts, Scorer


@dataclass(frozen=True)
class Length:
    """Longer is better."""

    facts = Facts("rank", "control")

    def prepare(self, ctx: Context) -> Scorer:
        return lambda examples: [len(e.response) for e in examples]
