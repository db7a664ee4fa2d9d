"""Loss: what the student finds easy (or hard) to say.

    score(z) = -ℓ(z)        prefer = "low"          score(z) = ℓ(z)        prefer = "high"

ℓ is the mean negative log-likelihood of the response tokens, in nats. Low loss keeps what the
student can nearly say already; ``llm2llm`` is the name of the other end.

Source: loss-based data selection, e.g. Marion et al., arXiv 2309.04564; the "training loss"
ablation of Montessori-Instruct (arXiv 2410.14208) does not say which end it prefers. LLM2LLM, Lee
et al., arXiv 2403.15042: the original asks the teacher for more data like the examples that the
student fails, and so does the arm ``llm2llm`` of a run (``influbench.loop.arms``). Where the
highest loss is to teach the teacher, as any other criterion does, take ``loss`` with
``prefer=high``.
Both ends have their advocates: low loss GRAPE, arXiv 2502.04194, high loss arXiv 2512.00884; a
study that has one of the two rows should have the other.
Cost: nothing to prepare, 1 forward pass per candidate.
"""

from dataclasses import dataclass
from typing import Literal

from influbench.estimator import Context, Facts, Scorer


@dataclass(frozen=True)
class Loss:
    """Mean response loss under the student."""

    prefer: Literal["low", "high"] = "low"

    facts = Facts("rank", "loss-based selection, arXiv 2309.04564", {"student"}, ("0", "1"))

    def prepare(self, ctx: Context) -> Scorer:
        from influbench.derivatives import gradients

        sign = 1.0 if self.prefer == "high" else -1.0
        return lambda examples: sign * gradients.losses(ctx.student, examples)


@dataclass(frozen=True)
class Llm2llm(Loss):
    """The candidate that the student gets most wrong is the most useful one."""

    prefer: Literal["low", "high"] = "high"

    facts = Facts("rank", "LLM2LLM, arXiv 2403.15042", {"student"}, ("0", "1"))
