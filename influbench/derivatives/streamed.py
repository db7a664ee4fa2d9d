"""Pieces of tensors that lie in host memory, brought to the device while the last one is worked on.

A ring of buffers on the device: a stream of its own fills one from pinned memory while the step
runs on the one before, so that an update of weights and moments in host memory takes as long as
their transfer. On a CPU the copies are made in turn.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import torch

from influbench.derivatives.step_kernels import Piece

SIZE = 1 << 25
"""Elements of a piece: 128 MB a tensor, some 8 ms of transfer for three."""

RING = 3
"""Buffers of a piece's weight and two moments: 1.2 GB on the device."""


def arriving(pieces: Iterable[Piece], device: torch.device) -> Iterator[Piece]:
    """The same pieces with weights and moments on ``device``, each until the next is asked for.

    Args:
        pieces: of at most ``SIZE`` elements.
        device: where their targets and gradients lie.
    """
    if device.type != "cuda":
        for piece in pieces:
            yield _arrived(piece, [t.to(device) for t in _sources(piece)])
        return
    worker, copier = torch.cuda.current_stream(device), _copier(device)
    ring: list[list[torch.Tensor]] = [[] for _ in range(RING)]
    free = [torch.cuda.Event() for _ in range(RING)]
    for number, piece in enumerate(pieces):
        sources, slot = _sources(piece), number % RING
        if not _fits(ring[slot], sources):
            # From the worker's memory, which whatever it did before may still be using.
            ring[slot] = [torch.empty(SIZE, dtype=s.dtype, device=device) for s in sources]
            copier.wait_stream(worker)
        there = [held[: s.numel()] for held, s in zip(ring[slot], sources, strict=True)]
        with torch.cuda.stream(copier):
            copier.wait_event(free[slot])  # until the step on what the buffer held is done
            for part, source in zip(there, sources, strict=True):
                part.copy_(source, non_blocking=True)
        worker.wait_stream(copier)
        yield _arrived(piece, there)
        free[slot].record(worker)


@functools.cache
def _copier(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def _fits(buffers: Sequence[torch.Tensor], sources: Sequence[torch.Tensor]) -> bool:
    return [b.dtype for b in buffers] == [s.dtype for s in sources]


def _sources(piece: Piece) -> list[torch.Tensor]:
    return [*piece.moments, *([piece.master] if piece.kept else [])]


def _arrived(piece: Piece, there: list[torch.Tensor]) -> Piece:
    count = len(piece.moments)
    master = there[count] if len(there) > count else piece.out
    return replace(piece, moments=tuple(there[:count]), master=master)
