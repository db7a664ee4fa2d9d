"""Examples as tokens, put into batches and laid out for a device once, however often they are read.

The references of ``exact`` go through the student after every step: they are tokenised and moved to
its device when they are batched, and never again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from influbench.data.records import Example
from influbench.estimator import Batch
from influbench.student import packing
from influbench.student.losses import Encoded, padded, response_positions, token_batches


@dataclass(frozen=True)
class TokenBatch(Batch):
    """A batch of a language student; each layout is made when it is first asked for, and kept."""

    rows: tuple[Encoded, ...]
    """The examples as tokens, in the order of ``positions``."""
    pad: int
    """The token behind the end of shorter rows."""
    pad_to: int
    """Pad to at least so many tokens."""
    device: torch.device

    @cached_property
    def tokens(self) -> torch.Tensor:
        """Ids, shape [row, time], padded on the right."""
        return padded(self.rows, self.pad, self.device, self.pad_to)

    @cached_property
    def targets(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Where response tokens are predicted: row, time and target id, shape [token] each."""
        return response_positions(self.rows, self.device)

    @cached_property
    def packing(self) -> packing.Packing:
        """The rows in one sequence, without padding."""
        return packing.packing(self.rows, self.device)

    def take(self, order: Sequence[int]) -> TokenBatch:
        """Some of its rows, or all in another order, as a batch with layouts of its own."""
        return replace(
            self,
            positions=tuple(self.positions[i] for i in order),
            examples=tuple(self.examples[i] for i in order) if self.examples else (),
            rows=tuple(self.rows[i] for i in order),
        )


def laid_out(
    examples: Sequence[Example],
    rows: Sequence[Encoded],
    *,
    budget: int,
    pad: int,
    pad_to: int,
    device: torch.device,
    limit: int | None = None,
) -> list[TokenBatch]:
    """Batches of similar length whose padded tokens stay under ``budget``.

    Args:
        examples: what the rows are, or nothing where nobody asks the batches for it.
        rows: one an example.
        budget: tokens; a longer example gets a batch of its own.
        pad: the token behind the end of shorter rows.
        pad_to: pad to at least so many tokens.
        device: where the batches lie.
        limit: rows longer than this never share a batch with shorter ones.
    """
    lengths = [max(pad_to, len(row.ids)) for row in rows]
    sides = (
        [range(len(rows))]
        if limit is None
        else [
            [i for i, n in enumerate(lengths) if n <= limit],
            [i for i, n in enumerate(lengths) if n > limit],
        ]
    )
    parts = [
        [side[i] for i in part]
        for side in sides
        for part in token_batches([lengths[i] for i in side], budget)
    ]
    return [
        TokenBatch(
            positions=tuple(positions),
            examples=tuple(examples[i] for i in positions) if examples else (),
            rows=tuple(rows[i] for i in positions),
            pad=pad,
            pad_to=pad_to,
            device=device,
        )
        for positions in parts
    ]
