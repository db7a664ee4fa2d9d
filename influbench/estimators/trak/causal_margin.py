"""TRAK's model output for a causal language model, as the ``traker`` package wants it.

    f(z, θ) = mean over response tokens of log(p / (1 - p))         Q(z) = mean of 1 - p

p is the probability of the response token: each token is a classification, as in ``traker``'s own
text classifier. The mean (not the sum) over tokens keeps long responses from dominating.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from trak.modelout_functions import AbstractModelOutput

from influbench.student.batch import TokenBatch

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""ids [row, time]; for the response tokens, padded, position of the prediction, target and mask,
[row, token] each."""


class CausalMargin(AbstractModelOutput):
    """Mean margin of the response tokens."""

    def __init__(self) -> None:
        pass

    def get_output(  # pyright: ignore[reportIncompatibleMethodOverride]  # traker passes what it wants
        self,
        model: torch.nn.Module,
        weights: dict[str, torch.Tensor],
        buffers: dict[str, torch.Tensor],
        ids: torch.Tensor,
        positions: torch.Tensor,
        targets: torch.Tensor,
        mask: torch.Tensor,
    ) -> torch.Tensor:
        """f(z, θ) of one example (no batch axis), a scalar.

        Args:
            model: a Hugging Face causal language model.
            weights: parameters that gradients are taken by, by name; the others stay as they are.
            buffers: other replacements, by name.
            ids: shape [time].
            positions: shape [token].
            targets: shape [token].
            mask: shape [token], 1 for real tokens and 0 for padding.
        """
        logits = _logits(model, {**weights, **buffers}, ids[None], positions)[0]
        return (self.of(logits, targets) * mask).sum() / mask.sum()

    def of(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """What is said of each token, shape [token], from logits of shape [token, vocabulary]."""
        correct = logits.gather(-1, targets[:, None])[:, 0]
        others = logits.scatter(-1, targets[:, None], -torch.inf).logsumexp(-1)
        return correct - others

    def get_out_to_loss_grad(  # pyright: ignore[reportIncompatibleMethodOverride]  # as above
        self,
        model: torch.nn.Module,
        weights: dict[str, torch.Tensor],
        buffers: dict[str, torch.Tensor],
        batch: Batch,
    ) -> torch.Tensor:
        """Q of each example, shape [row, 1]."""

        def wrongness(ids: Any, positions: Any, targets: Any, mask: Any) -> torch.Tensor:
            logits = _logits(model, {**weights, **buffers}, ids[None], positions)[0]
            p = logits.softmax(-1).gather(-1, targets[:, None])[:, 0]
            return ((1 - p) * mask).sum() / mask.sum()

        with torch.no_grad():
            return torch.func.vmap(wrongness)(*batch)[:, None]


class CausalLogLikelihood(CausalMargin):
    """Mean log-likelihood of the response tokens: the loss with its sign changed, and Q = 1."""

    def of(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """See ``CausalMargin``."""
        return logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0]


def _logits(
    model: torch.nn.Module, weights: dict[str, torch.Tensor], ids: torch.Tensor, positions: Any
) -> torch.Tensor:
    # The fused CPU attention has no batching rule: vmap would run it row by row.
    with sdpa_kernel(SDPBackend.MATH):
        arguments = {"input_ids": ids, "use_cache": False, "logits_to_keep": positions}
        return torch.func.functional_call(model, weights, kwargs=arguments).logits.float()


def stacked(batch: TokenBatch) -> Batch:
    """A student's batch as tensors with a leading row axis, for ``vmap``."""
    rows, device = batch.rows, batch.device
    learned = [row.learned for row in rows]
    longest = max(map(len, learned))

    def filled(values: Sequence[int]) -> list[int]:
        return [*values, *[0] * (longest - len(values))]

    positions = [filled([t - 1 for t in own]) for own in learned]
    targets = [filled([r.ids[t] for t in own]) for r, own in zip(rows, learned, strict=True)]
    mask = [filled([1] * len(own)) for own in learned]
    return (
        batch.tokens,
        torch.tensor(positions, device=device),
        torch.tensor(targets, device=device),
        torch.tensor(mask, device=device, dtype=torch.float32),
    )
