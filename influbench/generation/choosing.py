"""How the next token is chosen: penalties, temperature, nucleus, and a number of the row's own.

Penalties follow vLLM: repetition counts prompt and output, presence and frequency the output only;
temperature and nucleus come after them. Random numbers are made on the CPU, so that a GPU draws
with the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from influbench.files import digest
from influbench.generation.settings import Sampling

HEAD = 256
"""Tokens looked at before a whole vocabulary is sorted: nearly every nucleus fits in them, and
finding them among 49,152 takes a twentieth of the time of sorting all."""


@dataclass
class Chooser:
    """Chooses a token a row, step after step; rows may leave on the way."""

    sampling: Sampling
    uniforms: torch.Tensor
    """A number of the row's own for every step, shape [row, step]."""
    counts: torch.Tensor | None
    """How often the row wrote each token, shape [row, token]; None where no penalty asks."""
    seen: torch.Tensor | None
    """Whether prompt or output has the token, shape [row, token]; None where no penalty asks."""
    step: int = 0

    @classmethod
    def start(
        cls,
        sampling: Sampling,
        prompts: Sequence[Sequence[int]],
        keys: Sequence[str],
        *,
        vocabulary: int,
        device: torch.device,
    ) -> Chooser:
        """A chooser for rows that have written nothing.

        Args:
            sampling: the rules.
            prompts: tokens of each row's prompt.
            keys: one a row; all that its random numbers are made from.
            vocabulary: number of tokens that logits are about.
            device: of the logits.
        """
        shape = len(prompts), vocabulary
        counts = seen = None
        if sampling.presence_penalty or sampling.frequency_penalty:
            counts = torch.zeros(shape, device=device)
        if sampling.repetition_penalty != 1:
            seen = torch.zeros(shape, dtype=torch.bool, device=device)
            for row, prompt in enumerate(prompts):
                seen[row, list(prompt)] = True
        uniforms = torch.stack([_uniforms(key, sampling.max_new_tokens) for key in keys])
        return cls(sampling, uniforms.to(device), counts, seen)

    def choose(self, logits: torch.Tensor) -> torch.Tensor:
        """The next token of each row, shape [row], from logits of shape [row, token]."""
        rules, scores = self.sampling, logits.float()
        if self.seen is not None:
            factor = rules.repetition_penalty
            worse = torch.where(scores < 0, scores * factor, scores / factor)
            scores = torch.where(self.seen, worse, scores)
        if self.counts is not None:
            scores = scores - rules.presence_penalty * (self.counts > 0)
            scores -= rules.frequency_penalty * self.counts
        if rules.temperature > 0:
            uniform = self.uniforms[:, self.step]
            token = draw(scores / rules.temperature, rules.top_p, uniform)
        else:
            token = scores.argmax(-1)
        self.step += 1
        if self.counts is not None:
            self.counts.scatter_add_(1, token[:, None], torch.ones_like(scores[:, :1]))
        if self.seen is not None:
            self.seen.scatter_(1, token[:, None], True)
        return token

    def keep(self, rows: torch.Tensor) -> None:
        """Goes on with these rows only, shape [row], positions among the present ones."""
        self.uniforms = self.uniforms[rows]
        self.counts = None if self.counts is None else self.counts[rows]
        self.seen = None if self.seen is None else self.seen[rows]


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
