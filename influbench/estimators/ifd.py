"""Instruction-following difficulty: how little does the instruction help to say the response?

    ifd(z) = ℓ(response | instruction) / ℓ(response | empty instruction)
    score(z) = ifd(z) up to 1;  1 - ifd(z) above

A high ratio means that the response hardly follows from the instruction yet: hard and worth
training on. Above 1 the instruction makes the response *less* likely, which the authors take for a
mismatch and discard: such candidates rank below all others, the worst mismatch last.

``alone`` says what stands in the denominator:

    empty_turn    the response under the chat template, after an empty user turn, which an instruct
                  model has a meaning for; both losses count the same tokens, the end of turn too
    no_template   the author's own form: the tokens of the bare response, no template around them;
                  the first is not predicted unless the tokenizer begins a text with a token of its
                  own, and neither loss counts an end of turn

Source: Li et al., From Quantity to Quality (Cherry LLM), arXiv 2308.12032. Deviations: our default
is ``empty_turn`` (the authors have called another re-implementation wrong, so that both forms are
here); of a conversation the last answer counts.
Cost: nothing to prepare, 2 forward passes per candidate.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from influbench.errors import UserError
from influbench.estimator import Array, Context, Examples, Facts, Scorer

if TYPE_CHECKING:
    from influbench.student import LanguageStudent


@dataclass(frozen=True)
class Ifd:
    """Ratio of conditional to unconditional response loss."""

    alone: Literal["empty_turn", "no_template"] = "empty_turn"
    """How the response stands without its instruction."""

    facts = Facts("rank", "IFD, arXiv 2308.12032", {"language_model"}, ("0", "2"))

    def prepare(self, ctx: Context) -> Scorer:
        """Takes the student."""
        from influbench.derivatives import gradients

        held = ctx.language_student()
        student = dataclasses.replace(held, learn="last")  # the answer that both losses are of

        def score(examples: Examples) -> np.ndarray:
            if self.alone == "no_template":
                told = [dataclasses.replace(e, finished=False) for e in examples]
                ratio = gradients.losses(student, told) / _bare_losses(student, examples)
            else:
                alone = [dataclasses.replace(e, instruction="", earlier=()) for e in examples]
                ratio = gradients.losses(student, examples) / gradients.losses(student, alone)
            return np.where(ratio <= 1, ratio, 1 - ratio)

        return score


def _bare_losses(student: LanguageStudent, examples: Examples) -> Array:
    """Mean loss of the tokens of each response by itself, shape [example].

    Raises:
        UserError: a response has no token that is predicted.
    """
    from influbench.derivatives import gradients
    from influbench.student.batch import laid_out
    from influbench.student.losses import Encoded

    rows = []
    for example in examples:
        ids = tuple(student.tokenizer(example.response)["input_ids"])[: student.max_length]
        if len(ids) < 2:
            raise UserError(
                f"estimator 'ifd' with alone = no_template: the response of '{example.id}' is one "
                "token, which nothing predicts: leave it out, or use alone = empty_turn"
            )
        rows.append(Encoded(ids, ((1, len(ids)),)))
    pad = student.tokenizer.pad_token_id
    batches = laid_out(
        examples,
        rows,
        budget=student.token_budget,
        pad=pad if isinstance(pad, int) else 0,
        pad_to=student.pad_to,
        device=student.model.device,
    )
    return gradients.losses_of(student, batches)
