"""Batched sampling from a Hugging Face model, repeatable row by row.

Every row draws its tokens with random numbers made from (seed, id) alone: which other rows are in
the same call does not change them. It may change the last bits of the logits, as any batching does,
so batch sizes are part of a stage's identity.

Rows that share a prompt (the siblings of a seed prompt) read it once: keys and values are repeated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import (
    Cache,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    StoppingCriteria,
    StoppingCriteriaList,
)

from influbench.errors import UserError
from influbench.judging.token_choice import Sampling, processors
from influbench.models import context_length, conversation

__all__ = ["Completion", "Sampling", "complete"]


@dataclass(frozen=True)
class Completion:
    """What a model wrote after a prompt."""

    text: str
    """Without the end-of-turn token. A stop string that ended it is kept, the rest is cut."""
    tokens: int
    """How many tokens were written, without the end-of-turn token."""
    finished: bool
    """It ended by itself (end of turn or stop string), not at ``max_new_tokens``."""
    prompt_ids: tuple[int, ...]
    """The prompt as the model read it."""
    ids: tuple[int, ...]
    """What was sampled: with the end of turn, or the token that completed the stop string."""


@dataclass(frozen=True)
class _Row:
    """A prompt's place in the call, and its tokens."""

    position: int
    id: str
    tokens: tuple[int, ...]


def complete(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str],
    *,
    ids: Sequence[str],
    seed: int,
    sampling: Sampling,
    batch_size: int,
    stop: Sequence[str] = (),
) -> list[Completion]:
    """Completes rendered prompts, in the order given.

    Args:
        model: in eval mode.
        tokenizer: the model's.
        prompts: rendered text, special tokens included.
        ids: one a prompt; with ``seed`` they make each row's random numbers.
        seed: of the stage.
        sampling: how tokens are chosen.
        batch_size: rows decoded at a time, by length.
        stop: a row ends as soon as it has written one of these.

    Raises:
        UserError: a prompt does not fit the context with ``max_new_tokens`` after it.
    """
    rows = _rows(model, tokenizer, prompts, ids, sampling.max_new_tokens)
    first = {row.tokens: row.position for row in reversed(rows)}
    # Equal prompts side by side, so that a batch reads each of them once.
    rows.sort(key=lambda row: (len(row.tokens), first[row.tokens], row.position))
    done: dict[int, Completion] = {}
    ends = _end_tokens(model, tokenizer)
    with torch.inference_mode(), _own_settings_aside(model):
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            written = _decode(model, tokenizer, batch, seed, sampling, ends, stop)
            for row, tokens in zip(batch, written, strict=True):
                done[row.position] = _completion(row.tokens, tokens, tokenizer, ends, stop)
    return [done[position] for position in range(len(rows))]


def _rows(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str],
    ids: Sequence[str],
    max_new_tokens: int,
) -> list[_Row]:
    context = context_length(model)
    rows: list[_Row] = []
    for position, (name, prompt) in enumerate(zip(ids, prompts, strict=True)):
        tokens = tuple(tokenizer.encode(prompt, add_special_tokens=False))
        assert tokens, f"prompt '{name}' is empty"
        if len(tokens) + max_new_tokens > context:
            raise UserError(
                f"prompt '{name}': expected at most {context - max_new_tokens} tokens (a context "
                f"of {context} less max_new_tokens = {max_new_tokens}), got {len(tokens)}: lower "
                "max_new_tokens or give shorter prompts"
            )
        rows.append(_Row(position, name, tokens))
    return rows


@contextmanager
def _own_settings_aside(model: PreTrainedModel) -> Iterator[None]:
    """Puts the model's generation settings aside: ``generate`` would fill ours up with them."""
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def _end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Tokens that end a turn: the model's own, its template's, the tokenizer's end, begin, pad."""
    others = (tokenizer.bos_token_id, tokenizer.pad_token_id)
    own = conversation.stop_ids(model, tokenizer)
    return sorted({*own, *(token for token in others if token is not None)})


def _decode(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    batch: Sequence[_Row],
    seed: int,
    sampling: Sampling,
    ends: list[int],
    stop: Sequence[str],
) -> list[list[int]]:
    """New tokens of each row, padded where it ended before the others."""
    distinct = list(dict.fromkeys(row.tokens for row in batch))
    width = max(map(len, distinct))
    pad = tokenizer.pad_token_id
    padded = torch.tensor([[*[pad] * (width - len(t)), *t] for t in distinct], device=model.device)
    lengths = torch.tensor([len(t) for t in distinct], device=model.device)
    real = (torch.arange(width, device=model.device) >= width - lengths[:, None]).long()
    which = torch.tensor([distinct.index(row.tokens) for row in batch], device=model.device)
    shared: dict[str, Cache] = {}
    if len(distinct) < len(batch) and width > 1:
        shared["past_key_values"] = _read_once(model, padded, real, which)
    mask = real[which]
    criteria = [_StopStrings(tokenizer, stop, width)] if stop else []
    output = model.generate(  # pyright: ignore[reportCallIssue]
        input_ids=padded[which],
        attention_mask=mask,
        logits_processor=processors(sampling, mask, [f"{seed}:{row.id}" for row in batch]),
        stopping_criteria=StoppingCriteriaList(criteria),
        generation_config=GenerationConfig(
            do_sample=False,
            max_new_tokens=sampling.max_new_tokens,
            eos_token_id=ends,
            pad_token_id=pad,
            use_cache=True,
        ),
        **shared,
    )
    return output[:, width:].tolist()


def _read_once(
    model: PreTrainedModel, padded: torch.Tensor, real: torch.Tensor, which: torch.Tensor
) -> Cache:
    """Keys and values of all but the last prompt token, read once and repeated for its rows."""
    positions = (real.cumsum(-1) - 1).clamp(min=0)
    cache = model(
        input_ids=padded[:, :-1],
        attention_mask=real[:, :-1],
        position_ids=positions[:, :-1],
        use_cache=True,
        logits_to_keep=1,
    ).past_key_values
    cache.batch_select_indices(which)
    return cache


class _StopStrings(StoppingCriteria):
    """Ends a row whose last tokens complete a stop string.

    Decodes every row's tail at every step: cheaper than transformers' ``stop_strings``, which first
    matches each string against the whole vocabulary.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, stop: Sequence[str], width: int) -> None:
        self.tokenizer = tokenizer
        self.stop = stop
        self.width = width
        # A token is at least a byte long, so a stop string spans no more tokens than it has bytes.
        self.tail = max(len(text.encode()) for text in stop)

    def __call__(
        self,
        input_ids: torch.Tensor,
        scores: tuple[torch.Tensor] | None,  # noqa: ARG002
        **kwargs: object,  # noqa: ARG002
    ) -> torch.BoolTensor:
        tail = input_ids[:, max(self.width, input_ids.shape[1] - self.tail) :]
        texts = self.tokenizer.batch_decode(tail)
        found = [any(stop in text for stop in self.stop) for text in texts]
        return torch.tensor(found, device=input_ids.device)  # pyright: ignore[reportReturnType]


def _completion(
    prompt: tuple[int, ...],
    tokens: list[int],
    tokenizer: PreTrainedTokenizerFast,
    ends: list[int],
    stop: Sequence[str],
) -> Completion:
    end = next((place for place, token in enumerate(tokens) if token in ends), len(tokens))
    text = str(tokenizer.decode(tokens[:end], clean_up_tokenization_spaces=False))
    cuts = [text.index(s) + len(s) for s in stop if s in text]
    return Completion(
        text=text[: min(cuts)] if cuts else text,
        tokens=end,
        finished=end < len(tokens) or bool(cuts),
        prompt_ids=prompt,
        ids=tuple(tokens[: end if cuts else end + 1]),
    )
