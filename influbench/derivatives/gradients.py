"""Losses and gradients over sets of examples: what gradient estimators are made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from influbench.derivatives.sharding import ShardedStudent
from influbench.errors import UserError
from influbench.estimator import Array, Student
from influbench.records import Example

Tensors = list[torch.Tensor]


@torch.no_grad()
def losses(
    student: Student, examples: Sequence[Example], batches: Sequence[Sequence[int]] | None = None
) -> Array:
    """Loss of each example, shape [example], fp64, nats per response token.

    Args:
        student: the student.
        examples: in any order and number.
        batches: positions a batch; the student's own grouping by default.

    Raises:
        UserError: a loss is not finite.
    """
    out = np.empty(len(examples))
    for batch in student.batches(examples) if batches is None else batches:
        out[list(batch)] = student.loss([examples[i] for i in batch]).double().cpu().numpy()
    bad = np.flatnonzero(~np.isfinite(out))
    if bad.size:
        raise UserError(
            f"the student's loss on '{examples[bad[0]].id}' is {out[bad[0]]}: expected a finite "
            "number; the weights or the learning rate are broken"
        )
    return out


def gradient(student: Student, weights: Tensors, example: Example) -> Tensors:
    """Gradient of one example's loss by each weight; ``.grad`` fields are not touched.

    Raises:
        UserError: the loss is not finite.
    """
    loss = student.loss([example])
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
        loss = student.loss([examples[i] for i in batch]).sum() / len(examples)
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
