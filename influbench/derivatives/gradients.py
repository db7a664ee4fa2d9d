"""Losses and gradients over sets of examples: what gradient estimators are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from influbench.data.records import Example
from influbench.errors import UserError
from influbench.estimator import HELD, Array, Batch, InParts, Student
from influbench.models.halving import PATIENCE_S, waited
from influbench.student import LanguageStudent
from influbench.student.batch import TokenBatch

Tensors = list[torch.Tensor]

Result = TypeVar("Result")


def losses(student: Student, examples: Sequence[Example]) -> Array:
    """Loss of each example, shape [example], fp64, nats per response token.

    Raises:
        UserError: a loss is not finite.
    """
    return losses_of(student, student.batches(examples))


@torch.no_grad()
def losses_of(student: Student, batches: Sequence[Batch]) -> Array:
    """The same for examples that are in batches already, in the order they had before.

    Args:
        student: the student.
        batches: all batches of some examples.

    Raises:
        UserError: a loss is not finite.
    """
    found = [pair for batch in batches for pair in _in_parts(student, batch, student.loss)]
    if not found:
        return np.empty(0)
    values = torch.cat([loss.double() for _, loss in found]).cpu().numpy()  # one wait for a GPU
    order = [place for part, _ in found for place in part.positions]
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        name = [e.id for part, _ in found for e in part.examples][bad[0]]
        raise UserError(
            f"the student's loss on '{name}' is {values[bad[0]]}: expected a finite number; the "
            "weights or the learning rate are broken"
        )
    out = np.empty(len(values))
    out[order] = values
    return out


def gradient(student: Student, weights: Tensors, example: Example) -> Tensors:
    """Gradient of one example's loss by each weight; ``.grad`` fields are not touched.

    Raises:
        UserError: the loss is not finite, or the device has no room for it.
    """

    def derivative(batch: Batch) -> Tensors:
        loss = student.loss(batch)
        check_finite(float(loss.detach()), example)
        if isinstance(student, InParts):
            return student.backward(loss.sum())
        return list(torch.autograd.grad(loss.sum(), weights, materialize_grads=True))

    (batch,) = student.batches([example])
    ((_, found),) = _in_parts(student, batch, derivative)
    return found


def check_finite(loss: float, example: Example) -> None:
    """Refuses a loss whose gradient would be none.

    Raises:
        UserError: it is not finite.
    """
    if not np.isfinite(loss):
        raise UserError(
            f"the student's loss on '{example.id}' is {loss}: expected a finite number; "
            "look at that example and at the student's weights"
        )


def mean_gradient(
    student: Student,
    weights: Tensors,
    examples: Sequence[Example],
    shares: Array | None = None,
) -> Tensors:
    """Gradient of the mean loss over ``examples``, in as many batches as the student wants.

    In the dtype of what the optimizer steps from, where a weight is a narrower copy of that. Rows
    go without padding, and what they begin with goes once (``LanguageStudent.loss``, ``together``).

    Args:
        student: the student.
        weights: that the gradient is by.
        examples: whose losses.
        shares: factors on their losses, whose sum is then taken in place of the mean.

    Raises:
        UserError: a student in shards, of whose gradient no process would hold the whole; or no
            room for one example.
    """
    if isinstance(student, InParts):
        raise UserError(
            "this method needs a gradient over the reference set, which a student in shards does "
            "not give: use estimator 'exact', or a student that fits one device"
        )
    held = masters(student, weights)
    total = [torch.zeros_like(w, dtype=h.dtype) for w, h in zip(weights, held, strict=True)]

    def derivative(batch: Any) -> Sequence[torch.Tensor]:
        if isinstance(student, LanguageStudent):
            loss = student.loss(batch, together=True)
        else:
            loss = student.loss(batch)
        if shares is None:
            loss = loss.sum() / len(examples)
        else:
            loss = torch.dot(loss, torch.as_tensor(shares[list(batch.positions)]).to(loss))
        return torch.autograd.grad(loss, weights, materialize_grads=True)

    for batch in learning_batches(student, examples):
        for _, part in _in_parts(student, batch, derivative):
            for whole, gradient_part in zip(total, part, strict=True):
                whole.add_(gradient_part)
    return total


def masters(student: Student, weights: Tensors) -> Tensors:
    """What the optimizer steps from, one a weight: that itself, or what it is a narrow copy of."""
    states = student.optimizer.state
    return [states[w].get(HELD, w) if w in states else w for w in weights]


def learning_batches(student: Student, examples: Sequence[Example]) -> Sequence[Batch]:
    """Batches for passes that keep what a derivative needs."""
    if isinstance(student, LanguageStudent):
        return student.batches(examples, learning=True)
    return student.batches(examples)


def _in_parts(
    student: Student, batch: Any, run: Callable[[Any], Result]
) -> Iterator[tuple[Batch, Result]]:
    """What ``run`` gives for a batch, or for its halves where the device has no room for it.

    Raises:
        UserError: no room for one example.
    """
    if not isinstance(student, LanguageStudent):
        # All processes of a student in shards would have to halve: theirs is raised as it is.
        yield batch, run(batch)
        return
    pending: list[TokenBatch] = [batch]
    waits = iter(PATIENCE_S)
    while pending:
        part = pending.pop()
        tokens, learning = _padded_tokens(part), torch.is_grad_enabled()
        if len(part.rows) == 1 or student.room.holds(tokens, learning=learning):
            try:
                result = run(part)
            except torch.OutOfMemoryError:
                student.room.fail(tokens, learning=learning)
            else:
                yield part, result
                continue
        # Only here the error, whose traceback holds what the pass had made, is gone.
        single = len(part.rows) == 1
        pending += [part] if single and waited(waits) else reversed(_halves(student, part))


def _padded_tokens(batch: TokenBatch) -> int:
    return len(batch.rows) * max(len(row.ids) for row in batch.rows)


def _halves(student: LanguageStudent, batch: TokenBatch) -> list[TokenBatch]:
    count = len(batch.rows)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if count == 1:
        raise UserError(
            f"no memory is left on {student.model.device} for one example of "
            f"{_padded_tokens(batch)} tokens ('{batch.examples[0].id}'): set placement = "
            "offloaded, max_length, or compute = bfloat16"
        )
    middle = count // 2
    return [batch.take(range(middle)), batch.take(range(middle, count))]


def dot(left: Tensors, right: Tensors) -> float:
    """Inner product over all weights, in fp32 or wider, accumulated in fp64 across tensors."""
    parts = [flat_dot(a, b) for a, b in zip(left, right, strict=True)]
    return float(torch.stack(parts).double().sum())


def flat_dot(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Inner product of two tensors of one shape, a scalar in fp32 or wider.

    torch's own of two bf16 tensors is rounded to bf16: three digits, of which a difference of two
    such products has none left.
    """
    wide = torch.promote_types(torch.promote_types(left.dtype, right.dtype), torch.float32)
    return torch.dot(left.reshape(-1).to(wide), right.reshape(-1).to(wide))


def norm(tensors: Tensors) -> float:
    """Euclidean norm over all weights, in fp32 or wider."""
    wide = [torch.promote_types(t.dtype, torch.float32) for t in tensors]
    pairs = zip(tensors, wide, strict=True)
    norms = torch.stack([torch.linalg.vector_norm(t, dtype=dtype) for t, dtype in pairs])
    return float(torch.linalg.vector_norm(norms.double()))
