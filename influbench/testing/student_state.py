"""Everything of a student, and of the process, that a method could leave changed."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import torch

from influbench.estimator import Student


def snapshot(student: Student) -> dict[str, Any]:
    """A copy of it all, by what it is called in messages."""
    model, state = student.model, student.optimizer.state_dict()
    weights = dict(model.named_parameters())
    return {
        "weights": {n: p.detach().clone() for n, p in weights.items()},
        "buffers": {n: b.detach().clone() for n, b in model.named_buffers()},
        "gradients": {n: None if p.grad is None else p.grad.clone() for n, p in weights.items()},
        "trainable flags": {n: p.requires_grad for n, p in weights.items()},
        "train/eval mode": {n: m.training for n, m in model.named_modules()},
        "modules": {n: type(m).__name__ for n, m in model.named_modules()},
        "hooks": {n: _hooks(m) for n, m in model.named_modules()},
        "optimizer moments": copy.deepcopy(state["state"]),
        "optimizer settings": copy.deepcopy(state["param_groups"]),
        # Legacy, but what a method that calls np.random.seed changes.
        "random state": [torch.get_rng_state(), list(np.random.get_state()), random.getstate()],  # noqa: NPY002
    }


def same(left: Any, right: Any) -> bool:
    """Whether two snapshots, or parts of them, are bit-equal."""
    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and torch.equal(left, right)
    if isinstance(left, np.ndarray):
        return isinstance(right, np.ndarray) and np.array_equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(v, right[k]) for k, v in left.items())
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


def _hooks(module: torch.nn.Module) -> int:
    kinds = ("forward", "forward_pre", "backward", "backward_pre")
    own = [getattr(module, f"_{kind}_hooks") for kind in kinds]
    own += [p._backward_hooks or {} for p in module.parameters(recurse=False)]
    return sum(map(len, own))
