"""Batched sampling from a Hugging Face model, repeatable row by row.

Every row draws its tokens with random numbers made from (seed, id) alone: which other rows are in
the same call does not change them. It may change the last bits of the logits, as any batching does,
so batch sizes are part of a stage's identity.

Rows that share a prompt (the siblings of a seed prompt) read it once: keys and values are repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from influbench.errors import UserError
from influbench.generation.choosing import Chooser, Sampling
from influbench.generation.completion import Completion
from influbench.generation.decoding import EVERY, Reader
from influbench.generation.recorded import Steps
from influbench.models import context_length, conversation
from influbench.models.halving import Halves

__all__ = ["Completion", "Sampling", "complete"]


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
    steps: Steps | None = None,
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
        steps: recorded steps of this model, for who calls again; on a GPU there are some anyway.

    Raises:
        UserError: a prompt does not fit the context with ``max_new_tokens`` after it.
    """
    rows = _rows(model, tokenizer, prompts, ids, sampling.max_new_tokens)
    first = {row.tokens: row.position for row in reversed(rows)}
    # Equal prompts side by side, so that a batch reads each of them once.
    rows.sort(key=lambda row: (len(row.tokens), first[row.tokens], row.position))
    done: dict[int, Completion] = {}
    ends = _end_tokens(model, tokenizer)
    pad = tokenizer.pad_token_id
    assert isinstance(pad, int)
    if steps is None and model.device.type == "cuda":
        steps = Steps()
    reader = Reader(model, pad) if steps is None else Reader(model, pad, EVERY, steps)
    end = _End(tokenizer, frozenset(ends), stop)

    def write(batch: Sequence[_Row]) -> list[list[int]]:
        read = [row.tokens for row in batch]
        chooser = Chooser.start(
            sampling,
            read,
            [f"{seed}:{row.id}" for row in batch],
            vocabulary=model.config.get_text_config().vocab_size,
            device=model.device,
        )
        try:
            return reader.decode(read, chooser, end, sampling.max_new_tokens)
        except torch.OutOfMemoryError:
            if steps is not None:
                steps.forget()
            raise

    halves = Halves("lower max_new_tokens, or give the model a device with more room")
    for start in range(0, len(rows), batch_size):
        for batch, written in halves(rows[start : start + batch_size], write):
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


def _end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Tokens that end a turn: the model's own, its template's, the tokenizer's end, begin, pad."""
    others = (tokenizer.bos_token_id, tokenizer.pad_token_id)
    own = conversation.stop_ids(model, tokenizer)
    return sorted({*own, *(token for token in others if isinstance(token, int))})


@dataclass(frozen=True)
class _End:
    """Says of what a row has written whether it has ended: an end token, or a stop string."""

    tokenizer: PreTrainedTokenizerFast
    ends: frozenset[int]
    stop: Sequence[str]
    _last: dict[int, bool] = field(default_factory=dict)
    """Whether a token may be the last one of a stop string."""

    def __call__(self, tokens: list[int]) -> bool:
        if tokens[-1] in self.ends:
            return True
        if not self.stop or not self._may_be_last(tokens[-1]):
            return False
        # A token is at least a byte long, so a stop string spans no more tokens than it has bytes.
        tail = max(len(text.encode()) for text in self.stop)
        text = self.tokenizer.decode(tokens[-tail:])
        return any(stop in text for stop in self.stop)

    def _may_be_last(self, token: int) -> bool:
        """Decoding texts at every step is slow; few tokens hold the last character of one."""
        if token not in self._last:
            # Part of a character is shown as U+FFFD; a space at the beginning may be stripped.
            lasts = {"\ufffd", *(stop[-1] for stop in self.stop)}
            text = self.tokenizer.decode([token])
            self._last[token] = " " in lasts or any(last in text for last in lasts)
        return self._last[token]


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
