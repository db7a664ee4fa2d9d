"""How many tokens a batch may hold: measured on the device, from what is free there.

Two numbers, since a pass that keeps what a gradient needs takes several times the memory of one
that does not. Both come from two small passes each, whose peaks give what a token costs; no table
of models or cards. A batch that does not fit after all is halved (``derivatives.gradients``).

A training asks for the second number, beside what its optimizer is going to hold. How a batch is
cut into passes moves last bits of its gradient, as another device does, and never what is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from influbench.student.batch import TokenBatch
from influbench.student.language_student import LanguageStudent
from influbench.student.losses import Encoded

ON_A_CPU = 2048
"""Tokens a batch on a CPU: enough to fill the cores, little enough to stay in cache."""

MOST, MOST_LEARNING = 1 << 15, 1 << 14
"""On a GPU more tokens a batch win nothing."""

LEAST = 512

ROW = 256
"""Tokens of a row of a probe, half of them a response."""

PROBES = 4, 12
"""Rows of the two probes."""

USED = 0.85
"""Share of the free memory that is planned for: the allocator's blocks do not fit exactly."""

SHARED = 0.5
"""The same of a training: others may train on the same GPU, and each finds what is free now."""

HELD_TO_TRAIN = 3
"""What a training holds beside its weights, in their size: two moments, and a sum of gradients."""


def measured(student: LanguageStudent) -> tuple[int, int]:
    """Tokens a batch without and with gradients on a student that lies on a GPU."""
    weights = [w for group in student.optimizer.param_groups for w in group["params"]]
    held = _size(weights)

    def forward(batch: TokenBatch) -> None:
        with torch.no_grad():
            student.loss(batch)

    # Methods keep a copy of the weights and a gradient while passes run.
    return (
        _tokens(student, forward, 2 * held, MOST, USED),
        _tokens(student, _learning(student, weights), 2 * held, MOST_LEARNING, USED),
    )


def of_training(student: LanguageStudent, rows: Sequence[Encoded], batch_size: int) -> int:
    """Tokens of a pass of a training on the student's weights that take a gradient.

    To be asked before the first step, when no optimizer holds anything yet, and before a seed is
    set, since dropout draws numbers. On a GPU it is measured, unless no batch has more tokens than
    the measurement itself.

    Args:
        student: in the mode in which it is trained.
        rows: all that it learns.
        batch_size: of them in one optimizer step.
    """
    if student.model.device.type != "cuda":
        return ON_A_CPU
    largest = min(batch_size, len(rows)) * max(len(row.ids) for row in rows)
    if largest <= PROBES[-1] * ROW:
        return largest
    weights = [w for w in student.model.parameters() if w.requires_grad]
    kept = HELD_TO_TRAIN * _size(weights)
    return _tokens(student, _learning(student, weights), kept, MOST_LEARNING, SHARED)


def _size(weights: Sequence[torch.Tensor]) -> int:
    return sum(w.numel() * w.element_size() for w in weights)


def _learning(
    student: LanguageStudent, weights: Sequence[torch.Tensor]
) -> Callable[[TokenBatch], None]:
    def learning(batch: TokenBatch) -> None:
        torch.autograd.grad(student.loss(batch).sum(), weights, materialize_grads=True)

    return learning


def _tokens(
    student: LanguageStudent,
    run: Callable[[TokenBatch], None],
    kept: int,
    most: int,
    share: float,
) -> int:
    """As many tokens as fit beside ``kept`` bytes into a share of what is free."""
    device = student.model.device
    peaks = []
    try:
        for rows in PROBES:
            batch = _probe(student, rows)
            torch.cuda.synchronize(device)
            before = torch.cuda.memory_allocated(device)
            torch.cuda.reset_peak_memory_stats(device)
            run(batch)
            torch.cuda.synchronize(device)
            peaks.append(torch.cuda.max_memory_allocated(device) - before)
    except torch.OutOfMemoryError:
        return LEAST
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = torch.cuda.mem_get_info(device)[0] + unused
    torch.cuda.empty_cache()
    small, large = PROBES
    return budget(free - kept, peaks, (small * ROW, large * ROW), most, share)


def budget(
    free: int, peaks: list[int], tokens: tuple[int, int], most: int, share: float = USED
) -> int:
    """Tokens that fit into a share of ``free`` bytes, by the peaks of passes of so many tokens."""
    each = max(1.0, (peaks[1] - peaks[0]) / (tokens[1] - tokens[0]))
    constant = max(0.0, peaks[0] - each * tokens[0])
    return int(min(most, max(LEAST, (share * free - constant) // each)))


def _probe(student: LanguageStudent, rows: int) -> TokenBatch:
    # No two begin alike, or they would share a prefix when packed.
    some = student.vocabulary - 5
    pad = student.tokenizer.pad_token_id
    assert isinstance(pad, int)
    return TokenBatch(
        positions=tuple(range(rows)),
        examples=(),
        rows=tuple(
            Encoded(tuple(3 + (i + 7 * r) % some for i in range(ROW)), ((ROW // 2, ROW),))
            for r in range(rows)
        ),
        pad=pad,
        pad_to=0,
        device=student.model.device,
    )
