"""One batch of rows decoded: the prompt read once, rows that have ended leave.

transformers' ``generate`` keeps a row that has ended in every further pass until the last one ends,
and copies all keys and values at every token: on two CPU cores, 32 rows after prompts of 250
tokens, those copies were 41 % of a step in fp32 (``benchmarks/decoding.py``).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from influbench.generation.choosing import Chooser
from influbench.generation.recorded import FixedStep, Replay, Steps

LEAVE = 8
"""Rows leave when an eighth of those present has ended: each time, all keys are copied."""

WORTH = 16
"""Steps from which recording one pays: it takes as long as a few."""

EVERY = 8
"""Steps between two looks at what a GPU has written: to look, the host waits for it."""


@dataclass(frozen=True)
class Reader:
    """A model that reads prompts and goes on from them."""

    model: PreTrainedModel
    pad: int
    """Token that fills up shorter prompts, on the left."""
    every: int = 1
    """Steps between two looks at what was written; what a row writes after its end is left out."""
    steps: Steps | None = None
    """Steps that are recorded, where that is faster than the usual one: on a GPU."""

    @torch.inference_mode()
    def decode(
        self,
        prompts: Sequence[tuple[int, ...]],
        chooser: Chooser,
        ended: Callable[[list[int]], bool],
        limit: int,
    ) -> list[list[int]]:
        """The tokens that each row writes, the one that ended it included.

        Args:
            prompts: tokens of each row's prompt, at least one; equal ones are read once.
            chooser: chooses the tokens of these rows.
            ended: whether a row that has written these tokens is done.
            limit: most tokens a row.
        """
        device = self.model.device
        logits, cache, mask = self._read(prompts)
        mask = torch.cat([mask, mask.new_ones(len(prompts), limit)], 1)
        width = mask.shape[1] - limit
        positions = mask[:, :width].sum(-1, keepdim=True)
        written: list[list[int]] = [[] for _ in prompts]
        present = list(range(len(prompts)))
        done = [False] * len(prompts)
        fixed = replay = None
        unseen: list[torch.Tensor] = []
        for step in range(limit):
            token = chooser.choose(logits)
            unseen.append(token)
            if len(unseen) == self.every or step == limit - 1:
                for row, fresh in zip(present, torch.stack(unseen, 1).tolist(), strict=True):
                    done[row] = done[row] or _written_on(written[row], fresh, ended)
                unseen.clear()
                places = [place for place, row in enumerate(present) if not done[row]]
                if not places or step == limit - 1:
                    break
                if fixed is None and (len(present) - len(places)) * LEAVE >= len(present):
                    stay = torch.tensor(places, device=device)
                    present = [present[place] for place in places]
                    token, mask, positions = token[stay], mask[stay], positions[stay]
                    cache.batch_select_indices(stay)
                    chooser.keep(stay)
            # Cached, since the step moves the cache on: it is made once, whoever asks.
            usual = functools.cache(
                functools.partial(self._step, cache, token, mask, positions + step, width + step)
            )
            if not step:
                start = token, positions
                begun = self._recorded(cache, mask[:, :width], limit, usual, start)
                if begun is not None:
                    fixed, replay, logits = begun
                    cache.layers.clear()  # what they held is in the room of the recorded step
                    continue
                make_room(cache, limit)
            if fixed is None or replay is None:
                logits = usual()
            else:
                fixed.put(token, positions + step, width + step)
                logits = replay()
        return written

    def _recorded(
        self,
        cache: Cache,
        mask: torch.Tensor,
        limit: int,
        usual: Callable[[], torch.Tensor],
        start: tuple[torch.Tensor, torch.Tensor],
    ) -> tuple[FixedStep, Replay, torch.Tensor] | None:
        """See ``Steps.begun``; None, too, where layers slide or compress, or it does not pay."""
        plain = [layer for layer in cache.layers if type(layer) is DynamicLayer]
        if self.steps is None or limit < WORTH or len(plain) < len(cache.layers):
            return None
        return self.steps.begun(self.model, plain, mask, limit, usual, start)

    def _step(
        self,
        cache: Cache,
        token: torch.Tensor,
        mask: torch.Tensor,
        positions: torch.Tensor,
        place: int,
    ) -> torch.Tensor:
        """Logits of each row after ``token``, which stands at ``place``, shape [row, token]."""
        return self.model(
            input_ids=token[:, None],
            attention_mask=mask[:, : place + 1],
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]

    def _read(self, prompts: Sequence[tuple[int, ...]]) -> tuple[torch.Tensor, Cache, torch.Tensor]:
        """Next-token logits of each row, keys and values, and the mask of its prompt."""
        device = self.model.device
        distinct = list(dict.fromkeys(prompts))
        width = max(map(len, distinct))
        ids = torch.tensor([[*[self.pad] * (width - len(t)), *t] for t in distinct], device=device)
        lengths = torch.tensor([len(t) for t in distinct], device=device)
        mask = (torch.arange(width, device=device) >= width - lengths[:, None]).long()
        # Without a mask attention is plainly causal, which is faster where no row needs one.
        needed: dict[str, Any] = {} if bool(mask.all()) else {"attention_mask": mask}
        output = self.model(
            input_ids=ids,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
            use_cache=True,
            logits_to_keep=1,
            **needed,
        )
        logits, cache = output.logits[:, -1], output.past_key_values
        which = torch.tensor([distinct.index(tokens) for tokens in prompts], device=device)
        if len(distinct) < len(prompts):
            cache.batch_select_indices(which)
        return logits[which], cache, mask[which]


def _written_on(
    written: list[int], fresh: Sequence[int], ended: Callable[[list[int]], bool]
) -> bool:
    """Adds what a row wrote, up to its end; whether it has ended."""
    for token in fresh:
        written.append(token)
        if ended(written):
            return True
    return False


def make_room(cache: Cache, tokens: int) -> None:
    """Gives the layers of a cache room for so many tokens more, so that none copies to grow."""
    for number, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer:  # layers that slide or compress keep their own ways
            cache.layers[number] = _Roomy(layer, tokens)


class _Roomy(DynamicLayer):
    """A layer whose keys and values lie at the beginning of larger tensors."""

    def __init__(self, layer: DynamicLayer, tokens: int) -> None:
        super().__init__()
        assert layer.keys is not None
        assert layer.values is not None
        self.lazy_initialization(layer.keys, layer.values)
        self._used = layer.keys.shape[-2]
        self._room = [_larger(part, tokens) for part in (layer.keys, layer.values)]
        self._show()

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        *args: Any,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes the new keys and values after those there are; returns all."""
        end = self._used + key_states.shape[-2]
        for room, new in zip(self._room, (key_states, value_states), strict=True):
            room[..., self._used : end, :] = new
        self._used = end
        return self._show()

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keeps these rows."""
        self._room = [room[indices] for room in self._room]
        self._show()

    def _show(self) -> tuple[torch.Tensor, torch.Tensor]:
        self.keys, self.values = (room[..., : self._used, :] for room in self._room)
        return self.keys, self.values


def _larger(part: torch.Tensor, tokens: int) -> torch.Tensor:
    return torch.cat([part, part.new_zeros(*part.shape[:-2], tokens, part.shape[-1])], -2)
