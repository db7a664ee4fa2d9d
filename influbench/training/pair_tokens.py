"""A preference pair as tokens: what the teacher read, and what it then sampled."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from influbench.data.records import Pair
from influbench.errors import UserError
from influbench.models import conversation


@dataclass(frozen=True)
class PairTokens:
    """A pair as the teacher read and wrote it."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    cut: bool
    """Whether a completion lost its end to ``max_length``."""


def tokenise(tokenizer: PreTrainedTokenizerBase, pair: Pair, max_length: int) -> PairTokens:
    """The very ids that the teacher read and sampled, where the pair has them.

    A completion ends as it was sampled: with an end of turn only where the teacher wrote one. A
    pair of texts alone (its engine gave no tokens) is tokenised prompt and completion together.

    Raises:
        UserError: the prompt alone fills ``max_length``.
    """
    prompt = list(pair.prompt_ids) or tokenizer(pair.prompt, add_special_tokens=False).input_ids
    room = max_length - len(prompt)
    if room < 1:
        raise UserError(
            f"DPO: the prompt of pair '{pair.id}' has {len(prompt)} tokens, expected fewer than "
            f"{max_length}: raise dpo.max_length or show the teacher fewer or shorter seed prompts"
        )
    chosen, rejected = (
        list(ids) or conversation.completion(tokenizer, pair.prompt, text)
        for ids, text in ((pair.chosen_ids, pair.chosen), (pair.rejected_ids, pair.rejected))
    )
    cut = max(len(chosen), len(rejected)) > room
    return PairTokens(prompt, chosen[:room], rejected[:room], cut)
