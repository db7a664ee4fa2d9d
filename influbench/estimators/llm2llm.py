"""LLM2LLM: the candidate that the student gets most wrong is the most useful one.

    score(z) = ℓ(z), the student's mean response loss

Source: Lee et al., LLM2LLM, arXiv 2403.15042, as the baseline of Montessori-Instruct (arXiv
2410.14208) has it: "wrong" means the highest training loss. Deviations: the original asks the
teacher for more data like the examples that the student fails; here the same criterion ranks the
candidates, and the teacher is then taught by the loop's own preference pairs, so that only the
criterion differs between methods.
Cost: nothing to prepare, 1 forward pass per candidate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from influbench.estimator import Context, Scale, Scorer
from influbench.records import Example


@dataclass(frozen=True)
class Llm2llm:
    """Highest student loss first."""

    scale: ClassVar[Scale] = "rank"
    needs: ClassVar[tuple[str, ...]] = ()
    cost: ClassVar[str] = "0; 1"
    source: ClassVar[str] = "LLM2LLM, arXiv 2403.15042"

    def prepare(self, ctx: Context) -> Scorer:
        """Takes the student."""
        from influbench.derivatives import gradients

        def score(examples: Sequence[Example]) -> np.ndarray:
            return gradients.losses(ctx.student, examples)

        return score
