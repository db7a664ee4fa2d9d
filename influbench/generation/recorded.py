"""A decoding step recorded as a CUDA graph once a size, and replayed in every batch of that size.

A step of a small model is a thousand small kernels (``benchmarks/launches.py``), which take longer
to start than to run, and to record than to start. A graph starts them all at once, but only on
tensors of one size and place: batches come into a room of rounded size, keys and values are written
at a place that a tensor tells, attention sees the whole room through a mask, and no row leaves.
Which room that is follows from the batch alone, so that a stage that was killed goes on to the same
tokens. Before a graph is used its logits are compared with those of the usual step.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from influbench.store import passes

ALIKE = {torch.float32: 1e-3, torch.bfloat16: 6e-2}
"""How far logits may be from the usual ones, of their norm: another kernel rounds otherwise.

In fp32 a step that sees what it must not is further away (test_generation_tiny); in bf16 that was
not measured."""

PLACES = 64
"""Rooms hold multiples of so many tokens a row."""

ROWS = (16, 64, 256, 1024)
"""Rooms hold so many rows, or as many as a larger batch has: the unused ones cost little."""

MOST = 6
"""Rooms kept; the one that was used longest ago goes."""

Size = tuple[int, int]
"""Rows and places."""

Replay = Callable[[], torch.Tensor]


def size_of(rows: int, places: int) -> Size:
    """The room that a batch is put into."""
    return next((most for most in ROWS if rows <= most), rows), -(-places // PLACES) * PLACES


class _Fixed(DynamicLayer):
    """Keys and values of one layer in tensors that stay where they are."""

    def __init__(self, layer: DynamicLayer, size: Size, place: torch.Tensor) -> None:
        super().__init__()
        keys, values = layer.keys, layer.values
        assert keys is not None
        assert values is not None
        self.lazy_initialization(keys, values)
        rows, places = size
        self.keys, self.values = (
            part.new_zeros(rows, part.shape[1], places, part.shape[3]) for part in (keys, values)
        )
        self._place = place

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        *args: Any,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes the new keys and values at the place told; returns the whole room."""
        assert self.keys is not None
        assert self.values is not None
        self.keys.index_copy_(-2, self._place, key_states)
        self.values.index_copy_(-2, self._place, value_states)
        return self.keys, self.values

    def take(self, layer: DynamicLayer, width: int) -> None:
        """Holds the first ``width`` tokens of another layer, and nothing that was there before."""
        for room, other in ((self.keys, layer.keys), (self.values, layer.values)):
            assert room is not None
            assert other is not None
            room.zero_()  # an unseen infinity would still make the sum over the room no number
            room[: len(other), :, :width] = other[:, :, :width]


@dataclass
class FixedStep:
    """One step in tensors that stay where they are."""

    model: PreTrainedModel
    cache: Cache
    token: torch.Tensor
    """Shape [row, 1]."""
    position: torch.Tensor
    """Of that token in its row, shape [row, 1]."""
    place: torch.Tensor
    """Where in the room its keys and values go, shape [1]."""
    seen: torch.Tensor
    """What attention sees of the room, shape [row, 1, 1, place]."""
    rows: int = 0
    """Those in use, the first ones."""

    @classmethod
    def of(cls, model: PreTrainedModel, layers: Sequence[DynamicLayer], size: Size) -> FixedStep:
        """A step in a room of this size, for keys and values such as ``layers`` hold."""
        place = torch.zeros(1, dtype=torch.long, device=model.device)
        cache = DynamicCache(config=model.config)
        cache.layers.clear()
        cache.layers.extend(_Fixed(layer, size, place) for layer in layers)
        rows, places = size
        return cls(
            model,
            cache,
            token=place.new_zeros(rows, 1),
            position=place.new_zeros(rows, 1),
            place=place,
            seen=torch.zeros(rows, 1, 1, places, dtype=torch.bool, device=model.device),
        )

    def begin(self, layers: Sequence[DynamicLayer], mask: torch.Tensor) -> None:
        """Goes on from prompts.

        Args:
            layers: keys and values of theirs.
            mask: which of those are of a row, shape [row, place].
        """
        self.rows, width = mask.shape
        for own, layer in zip(self.cache.layers, layers, strict=True):
            assert isinstance(own, _Fixed)
            own.take(layer, width)
        self.seen.zero_()
        self.seen[: self.rows, 0, 0, :width] = mask.bool()
        self.seen[self.rows :, ..., 0] = True  # attention to nothing at all is no number

    def put(self, token: torch.Tensor, position: torch.Tensor, place: int) -> None:
        """What is read next.

        Args:
            token: shape [row].
            position: shape [row, 1].
            place: where in the room it goes.
        """
        self.token[: self.rows, 0] = token
        self.position[: self.rows] = position
        self.place.fill_(place)
        self.seen[: self.rows, ..., place] = True

    def run(self) -> torch.Tensor:
        """Logits after it of all rows of the room, shape [row, token]."""
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


def graph_of(step: FixedStep, pool: Any = None) -> Replay:
    """The step as a CUDA graph; what it returns is overwritten by the next one.

    Args:
        step: with something to read.
        pool: memory that it shares with other graphs.
    """
    graph, aside = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    worker = torch.cuda.current_stream()
    aside.wait_stream(worker)
    with torch.cuda.stream(aside):  # libraries allocate and choose kernels at first
        step.run()
    worker.wait_stream(aside)
    with torch.cuda.graph(graph, pool=pool):
        out = step.run()

    def again() -> torch.Tensor:
        graph.replay()
        return out

    return again


@dataclass
class Steps:
    """The recorded steps of one model, by the size of their room."""

    record: Callable[[FixedStep, Any], Replay] = graph_of
    """Makes what is replayed, in shared memory that is told."""
    recorded: int = 0
    """How many were."""
    _ready: dict[Size, tuple[FixedStep, Replay]] = field(default_factory=dict)
    _failed: bool = False
    _pool: Any = None

    def begun(
        self,
        model: PreTrainedModel,
        layers: Sequence[DynamicLayer],
        mask: torch.Tensor,
        limit: int,
        usual: Callable[[], torch.Tensor],
        first: tuple[torch.Tensor, torch.Tensor],
    ) -> tuple[FixedStep, Replay, torch.Tensor] | None:
        """A step that has gone on from prompts, what replays it, and the first logits.

        None where that cannot be done.

        Args:
            model: what is recorded.
            layers: keys and values of the prompts.
            mask: which of those are of a row, shape [row, place].
            limit: tokens that each row may write.
            usual: the same step as the model usually makes it; its logits, shape [row, token].
            first: the token that each row has written, shape [row], and its position, [row, 1].
        """
        if self._failed:
            return None
        rows, width = mask.shape
        size = size_of(rows, width + limit)
        held = self._ready.pop(size, None)
        backbone = passes.backbone(model)
        try:
            step = FixedStep.of(model, layers, size) if held is None else held[0]
            step.begin(layers, mask)
            step.put(*first, width)
            replay = self._recorded(step, usual) if held is None else held[1]
        except torch.OutOfMemoryError as error:
            self._ready.clear()
            _said(error)
            return None
        except (RuntimeError, TypeError, ValueError) as error:
            self._failed = True  # it would be for every batch
            _said(error)
            return None
        self._ready[size] = step, replay
        while len(self._ready) > MOST:
            del self._ready[next(iter(self._ready))]

        def counted() -> torch.Tensor:
            passes.reported(backbone, forward=0, backward=0, positions=rows)
            return replay()[:rows]

        # A batch that was recorded with goes on as any other would; ``usual`` has been counted.
        return step, counted, counted() if held is not None else replay()[:rows]

    def forget(self) -> None:
        """Gives back the memory of all rooms."""
        self._ready.clear()

    def _recorded(self, step: FixedStep, usual: Callable[[], torch.Tensor]) -> Replay:
        expected, device = usual(), step.model.device
        cuda = device.type == "cuda"
        with passes.uncounted(), torch.cuda.device(device) if cuda else nullcontext():
            if cuda and self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            replay = self.record(step, self._pool)
            if not like(replay()[: step.rows], expected):
                raise ValueError("its logits were others")
        self.recorded += 1
        return replay


def _said(error: Exception) -> None:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    warnings.warn(f"tokens are written without a CUDA graph: {reason}", stacklevel=3)
