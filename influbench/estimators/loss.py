"""Loss: what the student finds easy (or hard) to say.

    score(z) = -ℓ(z)        prefer = "low"          score(z) = ℓ(z)        prefer = "high"

ℓ is the mean negative log-likelihood of the response tokens, in nats. Low loss keeps what the
student can nearly say already, high loss is the hardness criterion of ``llm2llm``.

Source: loss-based data selection, e.g. Marion et al., arXiv 2309.04564; the "training loss"
ablation of Montessori-Instruct (arXiv 2410.14208) does not say which end it prefers.
Cost: nothing to prepare, 1 forward pass per candidate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from influbench.estimator import Context, Scale, Scorer
from influbench.records import Example


@dataclass(frozen=True)
class Loss:
    """Mean response loss under the student."""

    prefer: Literal["low", "high"] = "low"

    scale: ClassVar[Scale] = "rank"
    needs: ClassVar[tuple[str, ...]] = ()
    cost: ClassVar[str] = "0; 1"
    source: ClassVar[str] = "loss-based selection, arXiv 2309.04564"

    def prepare(self, ctx: Context) -> Scorer:
        """Takes the student."""
        from influbench.derivatives import gradients

        sign = 1.0 if self.prefer == "high" else -1.0

        def score(examples: Sequence[Example]) -> np.ndarray:
            return sign * gradients.losses(ctx.student, examples)

        return score
