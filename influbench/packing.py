"""Rows of unlike length in one forward pass: no padding, and their common prefix read once.

All tokens stand in one sequence: what every row begins with, then the rest of each row. Only
attention has to know of rows; everything else in a decoder works on tokens. Attention goes row by
row over prefix and rest, through PyTorch's own causal kernel, which suits a CPU; a GPU would starve
on such small calls. Without padding a pass over references of mixed length has 8 to 20 % fewer
tokens (docs/LOG.md, 2026-11-26).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from influbench.losses import Encoded, common_prefix

ATTENTION = "influbench_packed"
"""The name of our attention among those of transformers."""

IGNORED = ("position_ids", "use_cache")
"""What decoder layers hand to every attention function, and none uses."""


@dataclass(frozen=True)
class Packing:
    """How rows stand in a sequence: ``prefix`` tokens that all share, then each row's own."""

    prefix: int
    own: tuple[int, ...]

    def index(self, row: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """Where positions ``time``, all behind the prefix, of rows ``row`` are in the sequence."""
        own = torch.tensor([0, *self.own[:-1]], device=row.device)
        return own.cumsum(0)[row] + time


def packing(rows: Sequence[Encoded]) -> Packing:
    """The layout of ``rows`` in one sequence."""
    prefix = common_prefix(rows)
    return Packing(prefix, tuple(len(row.ids) - prefix for row in rows))


def hidden(model: PreTrainedModel, rows: Sequence[Encoded], layout: Packing) -> torch.Tensor:
    """Last hidden states after the final norm, shape [token of the sequence, width]."""
    ids, positions = list(rows[0].ids[: layout.prefix]), list(range(layout.prefix))
    for row in rows:
        ids += row.ids[layout.prefix :]
        positions += range(layout.prefix, len(row.ids))
    device = model.device
    decoder = model.get_decoder()
    with _our_attention(decoder):
        out = decoder(
            input_ids=torch.tensor([ids], device=device),
            position_ids=torch.tensor([positions], device=device),
            use_cache=False,
            packing=layout,
        )
    return out.last_hidden_state[0]


def works(model: PreTrainedModel) -> bool:
    """Whether ``model`` packed gives what it gives row by row; tried out, and on a CPU only.

    Attention windows and recurrent layers are out. A model that drops our arguments on their way to
    its attention, adds some of its own there or has no position ids is found out by the trial.
    """
    decoder = model.get_decoder()
    if model.device.type != "cpu" or decoder.config._attn_implementation != "sdpa":
        return False
    if any(type(layer) is not DynamicLayer for layer in DynamicCache(config=model.config).layers):
        return False
    rows = [Encoded((3, 4, 5, *own), 4) for own in ((6,), (7, 3, 8), (8, 6))]
    layout = packing(rows)
    with torch.inference_mode():
        try:
            packed = hidden(model, rows, layout)
        except TypeError:
            return False
        for i, row in enumerate(rows):
            time = torch.arange(layout.prefix, len(row.ids))
            ours = packed[layout.index(torch.full_like(time, i), time)].float()
            theirs = decoder(input_ids=torch.tensor([row.ids]), use_cache=False)[0][0, time].float()
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
        attention_mask: none, since rows end where ``packing`` says.
        packing: the layout.
        scaling: of the products; 1/√size by default.
        dropout: probability.
        others: what the layer was called with besides.

    Returns:
        Shape [1, token, head, size], and no weights.

    Raises:
        TypeError: the model wants more of its attention, such as a soft cap or a window.
    """
    assert attention_mask is None
    unknown = [name for name, given in others.items() if name not in IGNORED and given is not None]
    if unknown:
        raise TypeError(f"packed attention has no argument {unknown}")
    grouped = query.shape[1] != key.shape[1]

    def attend(*parts: torch.Tensor) -> torch.Tensor:
        return functional.scaled_dot_product_attention(
            *parts, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=grouped
        )

    split = [tensor.split([packing.prefix, *packing.own], dim=2) for tensor in (query, key, value)]
    before, *rests = zip(*split, strict=True)
    if not packing.prefix:
        out = [attend(*rest) for rest in rests]
    else:
        # The prefix's queries come along, so that the kernel's causal mask fits and none is built.
        whole = [
            [torch.cat(pair, dim=2) for pair in zip(before, rest, strict=True)] for rest in rests
        ]
        out = [attend(*row)[:, :, packing.prefix :] for row in whole]
        out.insert(0, attend(*before))
    return torch.cat(out, dim=2).transpose(1, 2), None


AttentionInterface.register(ATTENTION, _attention)


@contextmanager
def _our_attention(decoder: PreTrainedModel) -> Iterator[None]:
    config = decoder.config
    before = config._attn_implementation
    config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = before
