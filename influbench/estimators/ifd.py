"""Instruction-following difficulty: how little does the instruction help to say the response?

    ifd(z) = ℓ(response | instruction) / ℓ(response | empty instruction)
    score(z) = ifd(z) up to 1;  1 - ifd(z) above

A high ratio means that the response hardly follows from the instruction yet: hard and worth
training on. Above 1 the instruction makes the response *less* likely, which the authors take for a
mismatch and discard: such candidates rank below all others, the worst mismatch last.

Source: Li et al., From Quantity to Quality (Cherry LLM), arXiv 2308.12032. Deviation: ℓ(response)
alone is taken under the chat template with an empty user turn, which an instruct model has a
meaning for; both losses then count the same tokens, of a conversation those of its last answer.
Cost: nothing to prepare, 2 forward passes per candidate.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from influbench.estimator import Context, Facts, Scorer
from influbench.records import Example


@dataclass(frozen=True)
class Ifd:
    """Ratio of conditional to unconditional response loss."""

    facts = Facts("rank", "IFD, arXiv 2308.12032", {"language_model"}, ("0", "2"))

    def prepare(self, ctx: Context) -> Scorer:
        """Takes the student."""
        from influbench.derivatives import gradients

        held = ctx.language_student()
        student = dataclasses.replace(held, learn="last")  # the answer that both losses are of

        def score(examples: Sequence[Example]) -> np.ndarray:
            alone = [dataclasses.replace(e, instruction="", earlier=()) for e in examples]
            ratio = gradients.losses(student, examples) / gradients.losses(student, alone)
            return np.where(ratio <= 1, ratio, 1 - ratio)

        return score
