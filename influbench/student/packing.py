"""Rows of unlike length in one forward pass: no padding, and their common prefix read once.

All tokens stand in one sequence: what every row begins with, then the rest of each row. Only
attention has to know of rows, and is done on padded copies of queries, keys and values; all else in
a decoder works on tokens. What it saves: ``python -m benchmarks.packing``, and on a GPU
``python -m benchmarks.gpu``.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from influbench.models.decoder import decoder_of
from influbench.student.losses import Encoded, common_prefix, padded

ATTENTION = "influbench_packed"
"""The name of our attention among those of transformers."""

IGNORED = ("position_ids", "use_cache")
"""What decoder layers hand to every attention function, and none uses."""


@dataclass(frozen=True)
class Packing:
    """How rows stand in one sequence; the prefix counts as the first row's."""

    place: torch.Tensor
    """Where in the sequence a row's position is, shape [row, time]; 0 behind the row's end."""
    row: torch.Tensor
    """Whose each token is, shape [token]."""
    time: torch.Tensor
    """Its position in that row, shape [token]."""
    ids: torch.Tensor
    """What it is, shape [token]."""

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.place)


def packing(rows: Sequence[Encoded], device: torch.device) -> Packing:
    """The layout of ``rows`` in one sequence."""
    prefix, longest = common_prefix(rows), max(len(row.ids) for row in rows)
    first = [(0, time) for time in range(prefix)]
    rests = [(r, time) for r, row in enumerate(rows) for time in range(prefix, len(row.ids))]
    row, time = torch.tensor([*first, *rests]).T
    place = torch.zeros(len(rows), longest, dtype=torch.long)
    place[row, time] = torch.arange(len(row))
    place[:, :prefix] = torch.arange(prefix)
    ids = padded(rows, 0, place.device)[row, time]
    return Packing(place.to(device), row.to(device), time.to(device), ids.to(device))


def hidden(model: PreTrainedModel, layout: Packing) -> torch.Tensor:
    """Last hidden states after the final norm, shape [token, width]."""
    decoder = decoder_of(model)
    with _attending(decoder, ATTENTION):
        out = decoder(
            input_ids=layout.ids[None],
            position_ids=layout.time[None],
            use_cache=False,
            packing=layout,
        )
    return out.last_hidden_state[0]


def works(model: PreTrainedModel) -> bool:
    """Whether ``model`` packed gives what it gives row by row; tried out.

    Attention windows and recurrent layers are out. A model that drops our arguments on their way to
    its attention, adds some of its own there or has no position ids is found out by the trial.
    """
    decoder = decoder_of(model)
    config: Any = decoder.config  # transformers has no public name for what its attention is
    if config._attn_implementation != "sdpa":
        return False
    if any(type(layer) is not DynamicLayer for layer in DynamicCache(config=model.config).layers):
        return False
    rows = [Encoded((3, 4, 5, *own), ((3, 3 + len(own)),)) for own in ((6,), (7, 3, 8), (8, 6))]
    layout = packing(rows, model.device)
    with torch.inference_mode():
        try:
            packed = hidden(model, layout)
        except TypeError:
            return False
        for i, row in enumerate(rows):
            ours = packed[layout.place[i, : len(row.ids)]].float()
            ids = torch.tensor([row.ids], device=model.device)
            theirs = decoder(input_ids=ids, use_cache=False)[0][0].float()
            if not torch.allclose(ours, theirs, rtol=0, atol=1e-2 * float(theirs.abs().max())):
                return False
    return True


def _attention(
    _: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    packing: Packing,
    scaling: float | None = None,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each row; in and out as transformers' attention functions.

    Args:
        _: the layer's module.
        query: shape [1, head, token, size].
        key: shape [1, key head, token, size].
        value: as ``key``.
        attention_mask: none, since rows end where ``packing`` says; Doge's layers make one.
        packing: the layout.
        scaling: of the products; 1/√size by default.
        dropout: probability.
        others: what the layer was called with besides.

    Returns:
        Shape [1, token, head, size], and no weights.

    Raises:
        TypeError: the model wants more of its attention, such as a soft cap, a window or a mask.
    """
    others["attention_mask"] = attention_mask
    unknown = [name for name, given in others.items() if name not in IGNORED and given is not None]
    if unknown:
        raise TypeError(f"packed attention has no argument {unknown}")
    rows, longest = packing.place.shape

    def by_row(tensor: torch.Tensor) -> torch.Tensor:
        """Shape [row, head, time, size]; whole tokens are copied, twice as fast as by index."""
        tokens = tensor[0].transpose(0, 1).index_select(0, packing.place.view(-1))
        return tokens.unflatten(0, (rows, longest)).transpose(1, 2)

    # Under autocast rotations leave fp32, which attention would round after the copies.
    query, key = query.to(value.dtype), key.to(value.dtype)
    grouped = query.shape[1] != key.shape[1]
    out = functional.scaled_dot_product_attention(
        by_row(query),
        by_row(key),
        by_row(value),
        dropout_p=dropout,
        is_causal=True,
        scale=scaling,
        enable_gqa=grouped,
    )
    places = packing.row * longest + packing.time
    return out.transpose(1, 2).flatten(0, 1).index_select(0, places)[None], None


AttentionInterface.register(ATTENTION, _attention)


def again(
    decoder: PreTrainedModel,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """What a layer of a pass under way is run in now, and when it is run again going back.

    By then :func:`hidden` is over, and the decoder would attend in its own way.
    """
    config: Any = decoder.config
    return nullcontext(), _attending(decoder, config._attn_implementation)


@contextmanager
def _attending(decoder: PreTrainedModel, kind: str) -> Generator[None]:
    config: Any = decoder.config
    before = config._attn_implementation
    config._attn_implementation = kind
    try:
        yield
    finally:
        config._attn_implementation = before
