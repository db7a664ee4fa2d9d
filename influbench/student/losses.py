"""The per-example loss, the only currency, and the batches that it is computed in.

The loss of an example is the mean negative log-likelihood of its *response* tokens, in nats: the
end of turn included, and of a conversation all its assistant turns. Batching, padding and order
therefore cannot change a score, only its last bits. Logits are computed at response positions only,
a chunk at a time: the whole [batch, time, vocabulary] block costs more than the rest of a small
model's forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

CHUNK = 1024
"""Response positions whose logits exist at one time (1,024 × 49,152 fp32 logits are 200 MB)."""

FORWARD_CHUNK = 256
"""The same without gradients: 50 MB are read again while still in cache, which takes 12 % off."""

DEVICE_LOGITS = 1 << 28
"""Logits that exist at one time on a GPU: 1 GB in fp32."""

Head = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Encoded:
    """An example as tokens."""

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    """First response token and the one after the last, of each assistant turn; a prompt precedes
    the first, so it is at least 1."""
    cut: bool = False
    """Whether it lost its end to a limit of tokens."""

    @property
    def response_start(self) -> int:
        """Position of the first response token."""
        return self.spans[0][0]

    @property
    def learned(self) -> tuple[int, ...]:
        """Positions of all response tokens."""
        return tuple(t for first, end in self.spans for t in range(first, end))


def token_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Positions grouped by similar length so that rows × longest row stays under ``budget`` tokens.

    An example longer than the budget gets a batch of its own. Ties keep their order, so the result
    is a function of the lengths alone.
    """
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    batches: list[list[int]] = []
    for position in order:
        fits = batches and (len(batches[-1]) + 1) * lengths[position] <= budget
        if fits:
            batches[-1].append(position)
        else:
            batches.append([position])
    return batches


def common_prefix(rows: Sequence[Encoded]) -> int:
    """Number of tokens that all rows begin with and none predicts a response token from."""
    first, limit = rows[0].ids, min(row.response_start for row in rows) - 1
    length = 0
    while length < limit and all(row.ids[length] == first[length] for row in rows):
        length += 1
    return length


def padded(
    rows: Sequence[Encoded], pad: int, device: torch.device, at_least: int = 0
) -> torch.Tensor:
    """Token ids, shape [row, time], padded on the right to the longest row, or to ``at_least``.

    No attention mask is needed: under causal attention nothing before the padding sees it.
    """
    longest = max(at_least, *(len(row.ids) for row in rows))
    return torch.tensor(
        [[*row.ids, *[pad] * (longest - len(row.ids))] for row in rows], device=device
    )


def response_positions(
    rows: Sequence[Encoded], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Where response tokens are predicted: row index, time index and target id, shape [token]."""
    learned = [row.learned for row in rows]
    row_index = [r for r, own in enumerate(learned) for _ in own]
    time_index = [t - 1 for own in learned for t in own]
    targets = [row.ids[t] for row, own in zip(rows, learned, strict=True) for t in own]
    return (
        torch.tensor(row_index, device=device),
        torch.tensor(time_index, device=device),
        torch.tensor(targets, device=device),
    )


def token_nll(
    hidden: torch.Tensor, head: Head, targets: torch.Tensor, vocabulary: int
) -> torch.Tensor:
    """Negative log-likelihood of each target, shape [token], fp32, logits in chunks.

    Args:
        hidden: shape [token, width].
        head: hidden states to logits.
        targets: shape [token].
        vocabulary: how many logits a token has.
    """

    def nll(part: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(head(part).float(), target, reduction="none")

    learning = torch.is_grad_enabled() and hidden.requires_grad
    chunk = CHUNK if learning else FORWARD_CHUNK
    if hidden.device.type == "cuda":
        chunk = max(chunk, DEVICE_LOGITS // vocabulary)
    if len(targets) <= chunk:
        return nll(hidden, targets)
    parts = zip(hidden.split(chunk), targets.split(chunk), strict=True)
    if learning:
        # Recomputing a chunk's logits in backward costs one more head product and saves its 200 MB.
        return torch.cat([checkpoint(nll, p, t, use_reentrant=False) for p, t in parts])
    return torch.cat([nll(p, t) for p, t in parts])


def mean_by_row(nll: torch.Tensor, row_index: torch.Tensor, count: int) -> torch.Tensor:
    """Per-example loss, shape [row], summed in fp64, so that long responses lose nothing."""
    sums = torch.zeros(count, dtype=torch.float64, device=nll.device)
    sums = sums.index_add(0, row_index, nll.double())
    counts = torch.zeros_like(sums).index_add(0, row_index, torch.ones_like(nll.double()))
    return sums / counts  # bincount would make a GPU's work wait for its answer
