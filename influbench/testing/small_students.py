"""Small students for tests: one with closed forms, a random language model; and a steady judge."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from influbench import models
from influbench.data.records import Example, ModelRef
from influbench.estimator import Batch, Context, Student
from influbench.files import digest
from influbench.judging import Reply, Request, Usage
from influbench.student import LanguageStudent, packing


class LeastSquares(torch.nn.Module):
    """A linear model without bias: the student whose influence has a closed form.

    Args:
        weight: numbers of shape [feature]; kept in fp64.
    """

    def __init__(self, weight: Iterable[float]):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(list(weight), dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x·w, shape [row], for ``x`` of shape [row, feature]."""
        return x @ self.weight


@dataclass(frozen=True)
class ToyStudent:
    """Least squares: the instruction holds x as numbers, the response y; loss = (x·w - y)².

    Gradient 2(x·w - y)x, Hessian of the mean loss 2XᵀX/n: every estimator has a closed form here.
    """

    model: LeastSquares
    optimizer: torch.optim.Optimizer
    clip_norm: float | None = None

    def batches(self, examples: Sequence[Example]) -> list[Batch]:
        """Two at a time, so that batching is exercised."""
        starts = range(0, len(examples), 2)
        parts = [(range(i, min(i + 2, len(examples))), examples[i : i + 2]) for i in starts]
        return [Batch(tuple(positions), tuple(part)) for positions, part in parts]

    def loss(self, batch: Batch) -> torch.Tensor:
        """Squared error of each example, shape [example], fp64, in y's unit squared (no nats)."""
        rows = [[float(n) for n in e.instruction.split()] for e in batch.examples]
        x = torch.tensor(rows, dtype=torch.float64)
        y = torch.tensor([float(e.response) for e in batch.examples], dtype=torch.float64)
        return (self.model(x) - y) ** 2


def loss_of_each(student: Student, examples: Sequence[Example]) -> torch.Tensor:
    """Loss of each example, shape [example], in the order given, differentiable.

    In the student's unit: nats per response token of a language model.
    """
    batches = student.batches(examples)
    order = torch.tensor([i for batch in batches for i in batch.positions]).argsort()
    return torch.cat([student.loss(batch) for batch in batches])[order]


def toy_example(name: str, x: Sequence[float], y: float, group: str = "") -> Example:
    """A row of least squares as an example.

    Args:
        name: the example's id.
        x: shape [feature], as many as the student has weights.
        y: the target.
        group: whose siblings compete in pairs; empty for none.
    """
    return Example(
        id=name,
        instruction=" ".join(map(repr, map(float, x))),
        response=repr(float(y)),
        group=group,
    )


def warmed(student: Student, warmup: Sequence[Example], *, steps: int = 3) -> None:
    """Takes a few real optimizer steps, so that the moments are not empty; leaves no gradients.

    Args:
        student: changed in place.
        warmup: at least one example; each step is on the mean loss of the next two, round again.
        steps: how many.
    """
    for step in range(steps):
        batch = [warmup[(step * 2 + k) % len(warmup)] for k in range(2)]
        student.optimizer.zero_grad(set_to_none=True)
        loss_of_each(student, batch).mean().backward()
        if student.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(student.model.parameters(), student.clip_norm)
        student.optimizer.step()
    student.optimizer.zero_grad(set_to_none=True)


TOPICS = ("rivers", "bread", "chess", "the moon", "a small garden", "trains", "old maps", "bees")


def tiny_examples(kind: str, count: int, *, siblings: int = 2) -> list[Example]:
    """Short real sentences, the same at every call.

    Args:
        kind: stands in ids (``KIND-0`` …), instructions and groups.
        count: how many.
        siblings: examples a group.
    """
    return [
        Example(
            id=f"{kind}-{i}",
            instruction=f"Write {1 + i % 3} sentences about {TOPICS[i % len(TOPICS)]} for {kind}.",
            response=f"{TOPICS[(i * 3 + 1) % len(TOPICS)].capitalize()} are worth {i + 2} minutes. "
            + "They change with the seasons. " * (i % 3),
            group=f"{kind}-group-{i // siblings}",
        )
        for i in range(count)
    ]


class SteadyJudge:
    """A judge whose answer depends on nothing but the request."""

    name = "steady"
    small = False
    note = ""
    grading: Literal["probability", "text"] = "probability"
    usage = Usage()

    def ask(self, requests: Sequence[Request]) -> list[Reply]:
        """Probabilities from a hash of the messages; without choices, a grade as text."""
        return [self._reply(request) for request in requests]

    def _reply(self, request: Request) -> Reply:
        seed = int(digest(repr(request.messages)), 16)
        weights = np.random.default_rng(seed).dirichlet(np.ones(max(1, len(request.choices))))
        text = request.choices[int(weights.argmax())] if request.choices else f"[[{1 + seed % 5}]]"
        probabilities = tuple(map(float, weights)) if request.choices else None
        return Reply(text=text, probabilities=probabilities, prompt_tokens=1, completion_tokens=1)


def tiny_student(*, learning_rate: float = 1e-3, attention: Any = "sdpa") -> LanguageStudent:
    """A random two-layer Llama over bytes, on the CPU in fp32, before any step.

    Its optimizer is AdamW without weight decay or moments yet; gradients are clipped at norm 1.

    Args:
        learning_rate: of the optimizer.
        attention: of transformers, such as ``sdpa`` or ``eager``.
    """
    return copy.deepcopy(_made(models.resolve("tiny"), attention, learning_rate, warm=False))


@functools.cache
def _made(ref: ModelRef, attention: Any, learning_rate: float, *, warm: bool) -> LanguageStudent:
    """What copies are given of: what a method does to one student meets no other.

    Copying takes a tenth of reading and warming up.
    """
    loaded = models.load(ref, device="cpu", attention=attention)
    optimizer = torch.optim.AdamW(loaded.model.parameters(), lr=learning_rate, weight_decay=0.0)
    student = LanguageStudent(
        model=loaded.model,
        tokenizer=loaded.tokenizer,
        optimizer=optimizer,
        clip_norm=1.0,
        max_length=models.context_length(loaded.model),
        cut=False,
        token_budget=1024,
        packed=packing.works(loaded.model),
    )
    if warm:
        warmed(student, _WARMUP)
    return student


_WARMUP = tiny_examples("warmup", 8)


def tiny_context(
    scratch: Path,
    *,
    references: int = 4,
    seed: int = 0,
    learning_rate: float = 1e-3,
    attention: Any = "sdpa",
) -> Context:
    """A warmed tiny student with references, a warm-up set of eight and a steady judge.

    Args:
        scratch: an empty folder for the estimator.
        references: how many.
        seed: the context's, from which a method draws.
        learning_rate: of the student's AdamW.
        attention: of transformers, such as ``sdpa`` or ``eager``.
    """
    return Context(
        student=copy.deepcopy(_made(models.resolve("tiny"), attention, learning_rate, warm=True)),
        reference=tiny_examples("reference", references),
        warmup=tiny_examples("warmup", 8),
        scratch=scratch,
        seed=seed,
        judge=SteadyJudge(),
    )
