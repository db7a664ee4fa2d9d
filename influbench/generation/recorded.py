"""A decoding step recorded once a batch as a CUDA graph, and replayed for every further token.

A step of a small model is hundreds of small kernels, which take ten times as long to start as to
run. A graph starts them all at once, but only on tensors of one size and place: keys and values are
written at a place that a tensor tells, attention sees the whole room through a mask, and no row
leaves. Before it is used its logits are compared with those of the usual step.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from transformers import Cache, PreTrainedModel

from influbench.store import passes

ALIKE = {torch.float32: 1e-3, torch.bfloat16: 3e-2}
"""How far logits may be from the usual ones, of their norm: another kernel rounds otherwise."""


class Fixable(Protocol):
    """A layer of a cache that can keep its tensors where they are."""

    def fix(self, place: torch.Tensor | None) -> None:
        """Writes at ``place``, shape [1], and shows all its room; None: as before that."""
        ...


@dataclass(frozen=True)
class FixedStep:
    """One step in tensors that stay where they are."""

    model: PreTrainedModel
    cache: Cache
    layers: list[Fixable]
    token: torch.Tensor
    """Shape [row, 1]."""
    position: torch.Tensor
    """Of that token in its row, shape [row, 1]."""
    place: torch.Tensor
    """Where in the room its keys and values go, shape [1]."""
    seen: torch.Tensor
    """What attention sees of the room, shape [row, 1, 1, place]."""

    @classmethod
    def of(
        cls, model: PreTrainedModel, cache: Cache, layers: list[Fixable], mask: torch.Tensor
    ) -> FixedStep:
        """A step of rows whose mask over prompts and room is ``mask``, shape [row, place]."""
        rows = len(mask)
        return cls(
            model,
            cache,
            layers,
            token=mask.new_zeros(rows, 1),
            position=mask.new_zeros(rows, 1),
            place=mask.new_zeros(1),
            seen=torch.zeros_like(mask, dtype=torch.bool)[:, None, None],
        )

    def put(self, token: torch.Tensor, position: torch.Tensor, mask: torch.Tensor) -> None:
        """What is read next.

        Args:
            token: shape [row].
            position: shape [row, 1].
            mask: up to and with that token, shape [row, place].
        """
        end = mask.shape[1]
        self.token.copy_(token[:, None])
        self.position.copy_(position)
        self.place.fill_(end - 1)
        self.seen[:, 0, 0, :end] = mask.bool()

    def run(self) -> torch.Tensor:
        """Logits after it, shape [row, token]."""
        for layer in self.layers:
            layer.fix(self.place)
        return self.model(
            input_ids=self.token,
            attention_mask=self.seen,
            position_ids=self.position,
            past_key_values=self.cache,
            use_cache=True,
        ).logits[:, -1]


def like(logits: torch.Tensor, usual: torch.Tensor) -> bool:
    """Whether logits are those of the usual step but for rounding."""
    difference = (logits.float() - usual.float()).norm() / usual.float().norm()
    return bool(difference < ALIKE.get(usual.dtype, 1e-3))


def recorded(step: FixedStep, usual: torch.Tensor) -> Callable[[], torch.Tensor] | None:
    """What replays the step; None where the model cannot be recorded, or would say other things.

    Args:
        step: with what the usual step has just read.
        usual: the logits of that, shape [row, token].
    """
    backbone, rows = passes.backbone(step.model), len(step.token)
    try:
        with torch.cuda.device(usual.device) if usual.is_cuda else nullcontext():
            again = _recorded(step)
        with passes.uncounted():
            alike = like(step.run(), usual) and like(again(), usual)
        if alike:

            def replay() -> torch.Tensor:
                passes.reported(backbone, forward=0, backward=0, positions=rows)
                return again()

            return replay
        reason = "its logits were others"
    except (RuntimeError, TypeError, ValueError) as error:  # torch's out of memory too
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    for layer in step.layers:
        layer.fix(None)
    warnings.warn(f"tokens are written without a CUDA graph: {reason}", stacklevel=2)
    return None


def _recorded(step: FixedStep) -> Callable[[], torch.Tensor]:
    graph, aside = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    worker = torch.cuda.current_stream()
    with passes.uncounted():
        aside.wait_stream(worker)
        with torch.cuda.stream(aside):  # libraries allocate and choose kernels at first
            step.run()
        worker.wait_stream(aside)
        with torch.cuda.graph(graph):
            out = step.run()

    def again() -> torch.Tensor:
        graph.replay()
        return out

    return again
