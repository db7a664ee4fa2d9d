"""The estimator contract: the one page that a method author reads.

An estimator says, for each candidate, how much one optimizer step of the student on it would lower
the mean loss on the reference set. Sign, once and for all: **positive = the step lowers the loss**.
Unit, where there is one: nats per response token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from influbench.records import Example

if TYPE_CHECKING:
    import torch

Scale = Literal["nats", "signed", "rank"]
"""What a score means: ``nats`` a predicted drop of the mean reference loss; ``signed`` a quantity
whose zero means "no help" but whose unit is the method's own; ``rank`` an order without a zero."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Batch:
    """Examples that go through the student together; its own kind holds them as it reads them."""

    positions: tuple[int, ...]
    """Where each stands in the sequence that was put into batches."""
    examples: tuple[Example, ...]


class Student(Protocol):
    """The student after its warm-up."""

    @property
    def model(self) -> torch.nn.Module:
        """The network, in eval mode, weights in fp32 unless the run says otherwise."""
        ...

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The training's optimizer over ``model``'s parameters, warm-up moments inside."""
        ...

    @property
    def clip_norm(self) -> float | None:
        """The gradient-norm clip of the training, applied in every step; None = no clipping."""
        ...

    def batches(self, examples: Sequence[Example]) -> Sequence[Batch]:
        """``examples`` laid out for the student's device, in batches that it can hold.

        Once is enough for examples that are read again and again, such as references.
        """
        ...

    def loss(self, batch: Any) -> torch.Tensor:
        """Loss of each example of one of its batches, shape [example], differentiable.

        The mean over response tokens, in nats: batching and padding cannot change it.
        """
        ...


@dataclass(frozen=True)
class Context:
    """All that an estimator may use."""

    student: Student
    reference: Sequence[Example]
    """The held-out examples whose mean loss defines what helps."""
    warmup: Sequence[Example]
    """What the student was trained on: curvature and kernels are fitted here."""
    scratch: Path
    """A folder of the estimator's own."""
    seed: int
    services: Mapping[str, Any] = field(default_factory=dict)
    """What a method needs beside the student, by the name in its ``needs``: ``judge`` is a
    ``judging.Judge``."""


@dataclass(frozen=True)
class Scores:
    """Scores of a batch of candidates, in the order given.

    A bare array of shape [candidate] will do where there are no standard errors.
    """

    value: Array
    """Shape [candidate], float64."""
    stderr: Array | None = None
    """Shape [candidate]; standard error over reference items, unit of ``value``."""
    per_reference: Array | None = None
    """Shape [candidate, reference]; the mean over references is ``value``."""
    diagnostics: Mapping[str, float] = field(default_factory=dict)
    """Numbers about the method (share of parameters used …), kept with the scores."""


Scorer = Callable[[Sequence[Example]], "Scores | Array"]


@runtime_checkable
class Estimator(Protocol):
    """A method: a frozen dataclass whose fields are its options.

    It never sees a clock, a cache, a GPU count, a progress bar or a file name, and leaves weights,
    optimizer moments, gradients and train/eval mode as it found them.

    Modules of estimators import torch inside ``prepare``, so that listing methods stays instant.
    """

    scale: ClassVar[Scale]
    needs: ClassVar[tuple[str, ...]]
    """Any of ``gradients``, ``moments`` (an optimizer with its moments), ``language_model`` (a
    Hugging Face ``model`` and ``tokenizer``), ``judge``; empty = the text alone."""
    cost: ClassVar[str]
    """Passes to prepare + per candidate; M references, W warm-up examples: ``3M + 3``."""
    source: ClassVar[str]
    """Paper or code that the method is from."""

    def prepare(self, ctx: Context) -> Scorer:
        """Paid once per student and reference set; the scorer that it returns, per candidate."""
        ...


def as_scores(result: Scores | npt.ArrayLike, count: int) -> Scores:
    """What a scorer returned, as :class:`Scores`, checked.

    Raises:
        ValueError: not one finite number a candidate.
    """
    scores = (
        result if isinstance(result, Scores) else Scores(value=np.asarray(result, dtype=np.float64))
    )
    if scores.value.shape != (count,):
        raise ValueError(
            f"expected one score for each of {count} candidates, got shape {scores.value.shape}"
        )
    if not np.isfinite(scores.value).all():
        bad = int(np.flatnonzero(~np.isfinite(scores.value))[0])
        raise ValueError(f"score number {bad} of {count} is {scores.value[bad]}: expected finite")
    return scores
