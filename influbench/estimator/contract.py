"""The estimator contract: the one page that a method author reads.

An estimator says, for each candidate, how much one optimizer step of the student on it would lower
the mean loss on the reference set. Sign, once and for all: **positive = the step lowers the loss**.
Unit, where there is one: nats per response token.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast, get_args, runtime_checkable

import numpy as np
import numpy.typing as npt

from influbench.data.records import Example
from influbench.errors import UserError
from influbench.files import digest

if TYPE_CHECKING:
    import torch

    from influbench.judging import Judge
    from influbench.student import LanguageStudent

Scale = Literal["nats", "signed", "rank"]
"""What a score means: ``nats`` a predicted drop of the mean reference loss; ``signed`` a quantity
whose zero means "no help" but whose unit is the method's own; ``rank`` an order without a zero."""

Need = Literal["student", "gradients", "moments", "language_model", "warmup", "judge"]
"""What a method may reach for: the ``student``'s losses; ``gradients`` of them by its weights; the
``moments`` of its optimizer; a student known to be a ``language_model`` with its tokenizer; the
``warmup`` set; a ``judge``."""
Objective = Literal["nll", "dpo", "reward", "weighted"]
"""What the references are for (``derivatives.objective``): that the student says them
(``nll``), prefers them to rejected responses (``dpo``), says each as far as its ``reward`` or its
``weight`` asks."""

NEEDS = get_args(Need)
OF_STUDENT = {"gradients", "moments", "language_model"}

HELD = "master"
"""Name in an optimizer's state of the weight of which the parameter is a copy in use."""

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


@runtime_checkable
class InParts(Protocol):
    """A student of which each process holds a part: its gradients come by a way of its own."""

    def backward(self, loss: torch.Tensor) -> list[torch.Tensor]:
        """Gradient of a scalar loss by the part of each weight that is here.

        In the order of the optimizer's groups, each of the shape of its part.
        """
        ...


@dataclass(frozen=True)
class Facts:
    """What a method says of itself, and the run relies on.

    Raises:
        ValueError: an unknown scale or need.
    """

    scale: Scale
    source: str
    """Paper or code that the method is from."""
    needs: Set[Need] = frozenset()
    """All that it reaches for beside the texts; ``gradients``, ``moments`` and ``language_model``
    name the student too."""
    passes: tuple[str, str] = ("0", "0")
    """Forward passes of the student to prepare, and per candidate; a backward counts two. M
    references, W warm-up examples: ``("3M", "3")``."""
    stderr: bool = False
    """Whether its scores carry standard errors."""
    objectives: bool = False
    """Whether it follows ``Context.objective``; any other method is given, and scores for, nll."""
    spends: str = ""
    """The option with which it spends more passes for a better answer, or fewer; in a method that
    needs a warm-up set it counts examples of that set."""
    at_once: int = 8
    """Candidates that it is given at one time unless ``scoring.chunk_size`` says how many; more
    where it does something once a call, such as moving the weights."""

    def __post_init__(self) -> None:
        if self.scale not in get_args(Scale):
            raise ValueError(f"scale is {self.scale!r}: expected one of {get_args(Scale)}")
        if isinstance(self.needs, str) or not set(self.needs) <= set(NEEDS):
            raise ValueError(f"needs is {self.needs!r}: expected a set of some of {NEEDS}")
        implied = {"student"} if set(self.needs) & OF_STUDENT else set()
        object.__setattr__(self, "needs", frozenset(self.needs | implied))


@dataclass(frozen=True)
class Context:
    """All that an estimator may use; what its facts do not name raises when it is touched."""

    student: Student
    reference: Sequence[Example]
    """The held-out examples whose mean loss defines what helps."""
    warmup: Sequence[Example]
    """What the student was trained on: curvature and kernels are fitted here."""
    scratch: Path
    """A folder of the estimator's own."""
    seed: int
    judge: Judge | None = None
    objective: Objective = "nll"
    """What the references are for, where the method's facts say that it follows it."""
    dpo_beta: float = 0.1
    """β of ``objective = "dpo"``."""
    name: str = "?"
    """What the method is called in messages."""

    def language_student(self) -> LanguageStudent:
        """The student, known to be a Hugging Face language model with its tokenizer.

        Raises:
            UserError: it is another kind of student.
        """
        if not hasattr(self.student, "tokenizer"):
            raise UserError(
                f"estimator '{self.name}' needs a language model as student, got "
                f"{type(self.student).__name__}: choose a method without 'language_model' among "
                "its needs ('influbench estimators')"
            )
        return cast("LanguageStudent", self.student)

    def ask_judge(self) -> Judge:
        """The run's judge.

        Raises:
            UserError: there is none.
        """
        if self.judge is None:
            raise UserError(
                f"estimator '{self.name}' asks a judge and the run has none: set judge.kind"
            )
        return self.judge

    def warmup_of(self, at_least: int) -> Sequence[Example]:
        """The warm-up set.

        Raises:
            UserError: it has fewer examples than that.
        """
        if len(self.warmup) < at_least:
            raise UserError(
                f"estimator '{self.name}' needs a warm-up set of at least {at_least} examples, "
                f"got {len(self.warmup)}: give more (--warmup FILE)"
            )
        return self.warmup

    def probes(self, salt: str, count: int, at_least: int = 2) -> Sequence[Example]:
        """Some warm-up examples, drawn from (salt, seed): all of them where there are fewer.

        Raises:
            UserError: there are fewer than ``at_least``.
        """
        pool = self.warmup_of(at_least)
        return sorted(pool, key=lambda e: digest(f"{salt}:{self.seed}:{e.id}"))[:count]

    def rng(self, salt: str, key: str) -> np.random.Generator:
        """Random numbers from (salt, seed, key) alone, whatever was drawn before."""
        return np.random.default_rng(int(digest(f"{salt}:{self.seed}:{key}"), 16))

    def package(self, name: str, extra: str) -> ModuleType:
        """An optional package.

        Raises:
            UserError: it is not installed.
        """
        try:
            return importlib.import_module(name)
        except ImportError as error:
            raise UserError(
                f"estimator '{self.name}' needs the package '{name}' ({error}): "
                f"pip install 'influbench[{extra}]'"
            ) from error

    def share(self, share: float, min_share: float) -> float:
        """``share`` of the trainable parameters, if it is enough; both are shares from 0 to 1.

        Raises:
            UserError: the method covers less than ``min_share`` of them.
        """
        if share < min_share:
            raise UserError(
                f"estimator '{self.name}' attributes {share:.1%} of the trainable parameters, less "
                f"than its option min_share = {min_share:g}: lower it or choose a method that "
                "covers all"
            )
        return share


@dataclass(frozen=True)
class Scores:
    """Scores of a batch of candidates, in the order given.

    A bare array of shape [candidate] will do where there are no standard errors.
    """

    value: Array
    """Shape [candidate], float64; positive = one step on it lowers the mean reference loss. In nats
    per response token where the method's ``scale`` is ``nats``, else in a unit of its own."""
    stderr: Array | None = None
    """Shape [candidate]; standard error over reference items, unit of ``value``."""
    per_reference: Array | None = None
    """Shape [candidate, reference]; the mean over references is ``value``."""
    diagnostics: Mapping[str, float] = field(default_factory=dict)
    """Numbers about the method (share of parameters used …), kept with the scores."""


Examples = Sequence[Example]
"""What a scorer is given: some of the candidates."""
Scorer = Callable[[Examples], "Scores | npt.ArrayLike"]
"""Candidates to their scores, in the order given: one finite real number a candidate, shape
[candidate], sign and unit as :class:`Scores` says; a bare list or array will do."""


@runtime_checkable
class Estimator(Protocol):
    """A method: a frozen dataclass whose fields are its options.

    It never sees a clock, a cache, a GPU count, a progress bar or a file name, and leaves weights,
    optimizer moments, gradients and train/eval mode as it found them.

    Modules of estimators import torch inside ``prepare``, so that listing methods stays instant.
    """

    @property
    def facts(self) -> Facts:
        """A class attribute, ``facts = Facts(...)``, or a property where options change it."""
        ...

    def prepare(self, ctx: Context) -> Scorer:
        """Paid once per student and reference set; the scorer that it returns, per candidate.

        Raises:
            UserError: what the user gave does not suit the method; anything else that is raised is
                told as the method's own failure.
        """
        ...
