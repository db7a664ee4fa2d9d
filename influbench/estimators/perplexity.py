"""Perplexity: how natural is the whole example, instruction and response, to the student?

    score(z) = -exp(mean negative log-likelihood of all tokens of z)          prefer = "low"
    prefer = "high" turns the sign, prefer = "middle" takes -|log perplexity - its warm-up mean|

All tokens of the formatted example count but the first, chat template included: the instruction is
judged too, unlike in ``loss``.

Source: perplexity filtering, Marion et al., arXiv 2309.04564 (which found the middle best), Ankner
et al., arXiv 2405.20541.
Cost: nothing to prepare (W passes for ``middle``), 1 forward pass per candidate.
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal

import numpy as np

from influbench.estimator import Context, Examples, Facts, Scorer


@dataclass(frozen=True)
class Perplexity:
    """Perplexity of the whole example under the student."""

    prefer: Literal["low", "high", "middle"] = "low"

    @property
    def facts(self) -> Facts:
        """The warm-up set says where the middle is."""
        source = "perplexity pruning, arXiv 2309.04564"
        if self.prefer == "middle":
            return Facts("rank", source, {"language_model", "warmup"}, ("W", "1"))
        return Facts("rank", source, {"language_model"}, ("0", "1"))

    def prepare(self, ctx: Context) -> Scorer:
        """Takes the student; measures the warm-up set for ``middle``."""
        import torch

        from influbench.student.losses import Encoded

        student = ctx.language_student()

        def mean_nll(examples: Examples) -> np.ndarray:
            out = np.empty(len(examples))
            for batch in student.batches(examples):
                rows = tuple(Encoded(row.ids, ((1, len(row.ids)),)) for row in batch.rows)
                with torch.no_grad():
                    found = student.loss(dataclasses.replace(batch, rows=rows))
                out[list(batch.positions)] = found.double().cpu().numpy()
            return out

        if self.prefer == "middle":
            middle = mean_nll(ctx.warmup_of(1)).mean()
            return lambda examples: -np.abs(mean_nll(examples) - middle)
        sign = 1.0 if self.prefer == "high" else -1.0
        return lambda examples: sign * np.exp(mean_nll(examples))
