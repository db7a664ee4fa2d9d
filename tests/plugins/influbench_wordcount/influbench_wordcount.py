"""Word count: longer responses are better; a whole package in one module.

score(z) = number of words in the response

Cost: none.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from influbench import Context, Example, Facts


@dataclass(frozen=True)
class WordCount:
    """Words of the response, those of at least ``min_letters`` characters."""

    min_letters: int = 1

    facts = Facts("rank", "an example of a foreign package")

    def prepare(self, ctx: Context):
        """Nothing to prepare."""

        def score(examples: Sequence[Example]) -> np.ndarray:
            words = [
                [w for w in e.response.split() if len(w) >= self.min_letters] for e in examples
            ]
            return np.array([float(len(w)) for w in words])

        return score
