"""Which parameters does a gradient method really look at? Measured, not believed.

Each part of the student (embeddings; norms and biases; every kind of block, such as attention and
MLP) is made the only trainable one in turn, as in a student of which only that part was trained. A
method that attributes the part gives different candidates different scores; one that skips it gives
all of them the same, or refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from influbench.errors import UserError
from influbench.estimator import Context, Estimator, Student, as_scores
from influbench.records import Example


def parts(model: torch.nn.Module) -> dict[str, list[torch.nn.Parameter]]:
    """Trainable parameters by the part that they belong to; a tied one is named once."""
    found: dict[str, list[torch.nn.Parameter]] = {}
    embedded = {
        id(p)
        for module in model.modules()
        if isinstance(module, torch.nn.Embedding)
        for p in module.parameters()
    }
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if id(parameter) in embedded:
            part = "embeddings"
        elif parameter.ndim < 2:
            part = "norms and biases"
        else:
            part = ".".join(name.split(".")[-3:-2]) or name
        found.setdefault(part, []).append(parameter)
    return found


def only(student: Student, part: str) -> None:
    """Freezes everything else, in place: flags, and what the optimizer steps."""
    kept = {id(p) for p in parts(student.model)[part]}
    for parameter in student.model.parameters():
        parameter.requires_grad_(id(parameter) in kept)
    for group in student.optimizer.param_groups:
        group["params"] = [p for p in group["params"] if id(p) in kept]
    for parameter in [p for p in student.optimizer.state if id(p) not in kept]:
        del student.optimizer.state[parameter]


def attributed(
    estimator: Estimator, make_context: Callable[[], Context], candidates: Sequence[Example]
) -> tuple[float, list[str]]:
    """Share of the trainable parameters that the method notices, and the parts that it skips.

    Args:
        estimator: the method.
        make_context: a fresh warmed student and its data, each time.
        candidates: two or more, of different texts.
    """
    sizes = {
        part: sum(p.numel() for p in found)
        for part, found in parts(make_context().student.model).items()
    }
    skipped = [p for p in sizes if not _notices(estimator, make_context(), p, candidates)]
    total = sum(sizes.values())
    return 1 - sum(sizes[part] for part in skipped) / total, skipped


def _notices(estimator: Estimator, ctx: Context, part: str, candidates: Sequence[Example]) -> bool:
    only(ctx.student, part)
    try:
        scores = as_scores(estimator.prepare(ctx)(candidates), len(candidates))
    except UserError:
        return False
    return float(np.ptp(scores.value)) > 0
