"""Which parameters does a gradient method really look at? Measured, not believed.

Each part of the student (embeddings; norms and biases; every kind of block, such as attention and
MLP) is made the only trainable one in turn, as in a student of which only that part was trained. A
method that attributes the part gives different candidates different scores; one that skips it gives
all of them the same, or refuses with a ``UserError``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from influbench.data.records import Example
from influbench.errors import UserError
from influbench.estimator import Context, Scorer, Student, as_scores


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


@dataclass(frozen=True)
class Coverage:
    """Which parts of the student the scores notice."""

    share: float
    """Of the trainable parameters, all but those of the skipped parts."""
    noticed: list[str]
    skipped: list[str]
    unasked: dict[str, str]
    """Parts for which the method failed when they were trained alone -> how."""


def attributed(
    prepare: Callable[[Context], Scorer],
    make_context: Callable[[], Context],
    candidates: Sequence[Example],
) -> Coverage:
    """What the method notices of each part, trained alone.

    A method that inverts a curvature may find it singular where few parameters are trained: that
    says nothing about what it attributes, and is kept as a part that could not be asked about.

    Args:
        prepare: the method.
        make_context: a fresh warmed student and its data, each time.
        candidates: two or more, of different texts.

    Returns:
        Parts by whether the scores differ between candidates, and the share (0 to 1) of the
        trainable parameters in parts that are not skipped.
    """
    sizes = {
        part: sum(p.numel() for p in found)
        for part, found in parts(make_context().student.model).items()
    }
    noticed: list[str] = []
    skipped: list[str] = []
    unasked: dict[str, str] = {}
    for part in sizes:
        ctx = make_context()
        only(ctx.student, part)
        try:
            scores = as_scores(prepare(ctx)(candidates), len(candidates))
        except UserError:
            skipped.append(part)
        except Exception as error:
            unasked[part] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        else:
            (noticed if float(np.ptp(scores.value)) > 0 else skipped).append(part)
    share = 1 - sum(sizes[part] for part in skipped) / sum(sizes.values())
    return Coverage(share, noticed, skipped, unasked)
