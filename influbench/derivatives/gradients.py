"""Losses and gradients over sets of examples: what gradient estimators are made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from influbench.derivatives.sharding import ShardedStudent
from influbench.errors import UserError
from influbench.estimator import Array, Batch, Student
from influbench.records import Example

Tensors = list[torch.Tensor]


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
    out = np.empty(sum(len(batch.positions) for batch in batches))
    for batch in batches:
        found = student.loss(batch).double().cpu().numpy()
        out[list(batch.positions)] = found
        bad = np.flatnonzero(~np.isfinite(found))
        if bad.size:
            raise UserError(
                f"the student's loss on '{batch.examples[bad[0]].id}' is {found[bad[0]]}: expected "
                "a finite number; the weights or the learning rate are broken"
            )
    return out


def gradient(student: Student, weights: Tensors, example: Example) -> Tensors:
    """Gradient of one example's loss by each weight; ``.grad`` fields are not touched.

    Raises:
        UserError: the loss is not finite.
    """
    (batch,) = student.batches([example])
    loss = student.loss(batch)
    if not torch.isfinite(loss).all():
        raise UserError(
            f"the student's loss on '{example.id}' is {float(loss)}: expected a finite number; "
            "look at that example and at the student's weights"
        )
    if isinstance(student, ShardedStudent):
        return student.backward(loss.sum())
    return list(torch.autograd.grad(loss.sum(), weights, materialize_grads=True))


def mean_gradient(student: Student, weights: Tensors, examples: Sequence[Example]) -> Tensors:
    """Gradient of the mean loss over ``examples``, in as many batches as the student wants.

    Raises:
        UserError: a student in shards, of whose gradient no process would hold the whole.
    """
    if isinstance(student, ShardedStudent):
        raise UserError(
            "this method needs a gradient over the reference set, which a student in shards does "
            "not give: use estimator 'exact', or a student that fits one device"
        )
    total = [torch.zeros_like(w) for w in weights]
    for batch in student.batches(examples):
        loss = student.loss(batch).sum() / len(examples)
        part = torch.autograd.grad(loss, weights, materialize_grads=True)
        for whole, gradient_part in zip(total, part, strict=True):
            whole.add_(gradient_part)
    return total


def dot(left: Tensors, right: Tensors) -> float:
    """Inner product over all weights, accumulated in fp64 across tensors."""
    parts = [torch.dot(a.reshape(-1), b.reshape(-1)) for a, b in zip(left, right, strict=True)]
    return float(torch.stack(parts).double().sum())


def norm(tensors: Tensors) -> float:
    """Euclidean norm over all weights."""
    norms = torch.stack([torch.linalg.vector_norm(t) for t in tensors])
    return float(torch.linalg.vector_norm(norms.double()))
