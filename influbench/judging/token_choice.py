"""How the next token is chosen: penalties, temperature, nucleus, and a number of the row's own.

Penalties follow vLLM: repetition counts prompt and output, presence and frequency the output only;
temperature and nucleus come after them. Random numbers are made on the CPU, so that a GPU draws
with the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
)

from influbench.config import Config
from influbench.files import digest

HEAD = 256
"""Tokens looked at before a whole vocabulary is sorted: nearly every nucleus fits in them, and
finding them among 49,152 takes a twentieth of the time of sorting all."""


class Sampling(Config):
    """How the next token is chosen, and how many there may be."""

    temperature: float = Field(default=1.0, ge=0, description="0 takes the likeliest token")
    top_p: float = Field(default=1.0, gt=0, le=1)
    presence_penalty: float = Field(
        default=0.0, description="taken once from a token written before"
    )
    frequency_penalty: float = Field(default=0.0, description="taken each time it was written")
    repetition_penalty: float = Field(
        default=1.0, gt=0, description="factor on tokens of prompt and output; 1 is none"
    )
    max_new_tokens: int = Field(default=1024, ge=1)


def processors(sampling: Sampling, mask: torch.Tensor, keys: Sequence[str]) -> LogitsProcessorList:
    """What ``generate(do_sample=False)`` needs to sample.

    Args:
        sampling: the rules.
        mask: attention mask of the prompts, padded on the left, shape [row, time].
        keys: one a row; all that its random numbers are made from.
    """
    width = mask.shape[1]
    chain: list[LogitsProcessor] = []
    if sampling.repetition_penalty != 1:
        padding = width - mask.sum(-1)
        chain.append(
            RepetitionPenaltyLogitsProcessor(
                sampling.repetition_penalty, prompt_ignore_length=padding
            )
        )
    if sampling.presence_penalty or sampling.frequency_penalty:
        chain.append(_OutputPenalty(sampling.presence_penalty, sampling.frequency_penalty, width))
    if sampling.temperature > 0:
        uniforms = torch.stack([_uniforms(key, sampling.max_new_tokens) for key in keys])
        uniforms = uniforms.to(mask.device)
        chain.append(_Draw(sampling.temperature, sampling.top_p, uniforms, width))
    return LogitsProcessorList(chain)


def draw(logits: torch.Tensor, top_p: float, uniform: torch.Tensor) -> torch.Tensor:
    """The token whose slice of the cumulative probability holds ``uniform``, shape [row].

    Args:
        logits: shape [row, token].
        top_p: only the likeliest tokens that together reach this probability take part.
        uniform: in [0, 1), shape [row].
    """
    probability = logits.softmax(-1)
    if top_p == 1:
        return _invert(probability, uniform)
    head, order = probability.topk(min(HEAD, probability.shape[-1]))
    token = _from_nucleus(head, order, top_p, uniform)
    wide = (head.sum(-1) < top_p).nonzero()[:, 0]
    if len(wide):
        head, order = probability[wide].sort(descending=True, stable=True)
        token[wide] = _from_nucleus(head, order, top_p, uniform[wide])
    return token


def _from_nucleus(
    head: torch.Tensor, order: torch.Tensor, top_p: float, uniform: torch.Tensor
) -> torch.Tensor:
    before = head.cumsum(-1) - head
    place = _invert(head.masked_fill(before >= top_p, 0.0), uniform)
    return order.gather(1, place[:, None])[:, 0]


def _invert(weights: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    total = weights.cumsum(-1)
    target = uniform[:, None] * total[:, -1:]
    # Rounding may take the target up to the total itself, beyond the last token that has weight.
    last = (weights > 0).long().cumsum(-1).argmax(-1)
    return torch.searchsorted(total, target, right=True)[:, 0].minimum(last)


def _uniforms(key: str, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(int(digest(key)[:15], 16))
    return torch.rand(count, generator=generator)


class _OutputPenalty(LogitsProcessor):
    """Lowers the logits of tokens that the row has written: presence once, frequency each time."""

    def __init__(self, presence: float, frequency: float, width: int) -> None:
        self.presence = presence
        self.frequency = frequency
        self.width = width
        self.counts = torch.empty(0)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if input_ids.shape[1] == self.width:
            self.counts = torch.zeros_like(scores)
            return scores
        self.counts.scatter_add_(1, input_ids[:, -1:], torch.ones_like(scores[:, :1]))
        return scores - self.presence * (self.counts > 0) - self.frequency * self.counts


class _Draw(LogitsProcessor):
    """Draws each row's token with a number of its own and leaves only that token standing."""

    def __init__(
        self, temperature: float, top_p: float, uniforms: torch.Tensor, width: int
    ) -> None:
        self.temperature = temperature
        self.top_p = top_p
        self.uniforms = uniforms
        self.width = width

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        uniform = self.uniforms[:, input_ids.shape[1] - self.width]
        token = draw(scores.float() / self.temperature, self.top_p, uniform)
        return torch.full_like(scores, -torch.inf).scatter_(1, token[:, None], 0.0)
