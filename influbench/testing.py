"""The kit of a method author: small real students and a check that an estimator keeps its promises.

>>> from influbench.testing import check_estimator
>>> from influbench.estimators.random import Random
>>> check_estimator(Random())
"""

from __future__ import annotations

import copy
import dataclasses
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from influbench import models
from influbench.estimator import Array, Context, Estimator, Student, as_scores
from influbench.judging import Reply, Request
from influbench.records import Example, digest
from influbench.student import LanguageStudent


class ContractError(AssertionError):
    """A promise of the estimator contract that a method does not keep."""


class LeastSquares(torch.nn.Module):
    """A linear model without bias: the student whose influence has a closed form."""

    def __init__(self, weight: Iterable[float]):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(list(weight), dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x·w, shape [row]."""
        return x @ self.weight


@dataclass(frozen=True)
class ToyStudent:
    """Least squares: the instruction holds x as numbers, the response y; loss = (x·w - y)².

    Gradient 2(x·w - y)x, Hessian of the mean loss 2XᵀX/n: every estimator has a closed form here.
    """

    model: LeastSquares
    optimizer: torch.optim.Optimizer
    clip_norm: float | None = None

    def loss(self, examples: Sequence[Example]) -> torch.Tensor:
        """Squared error of each example, shape [example]."""
        rows = [[float(n) for n in e.instruction.split()] for e in examples]
        x = torch.tensor(rows, dtype=torch.float64)
        y = torch.tensor([float(e.response) for e in examples], dtype=torch.float64)
        return (self.model(x) - y) ** 2

    def batches(self, examples: Sequence[Example]) -> list[list[int]]:
        """Two at a time, so that batching is exercised."""
        return [list(range(i, min(i + 2, len(examples)))) for i in range(0, len(examples), 2)]


def toy_example(name: str, x: Sequence[float], y: float, group: str = "") -> Example:
    """A row of least squares as an example."""
    return Example(
        id=name,
        instruction=" ".join(map(repr, map(float, x))),
        response=repr(float(y)),
        group=group,
    )


def warmed(student: Student, warmup: Sequence[Example], *, steps: int = 3) -> None:
    """Takes a few real optimizer steps, so that the moments are not empty; leaves no gradients."""
    for step in range(steps):
        batch = [warmup[(step * 2 + k) % len(warmup)] for k in range(2)]
        student.optimizer.zero_grad(set_to_none=True)
        student.loss(batch).mean().backward()
        if student.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(student.model.parameters(), student.clip_norm)
        student.optimizer.step()
    student.optimizer.zero_grad(set_to_none=True)


TOPICS = ("rivers", "bread", "chess", "the moon", "a small garden", "trains", "old maps", "bees")


def tiny_examples(kind: str, count: int, *, siblings: int = 2) -> list[Example]:
    """Short real sentences, ``siblings`` a group."""
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
    """A random two-layer Llama over bytes, on the CPU in fp32, before any step."""
    loaded = models.load(models.resolve("tiny"), device="cpu", attention=attention)
    optimizer = torch.optim.AdamW(loaded.model.parameters(), lr=learning_rate, weight_decay=0.0)
    return LanguageStudent(
        model=loaded.model,
        tokenizer=loaded.tokenizer,
        optimizer=optimizer,
        clip_norm=1.0,
        max_length=models.context_length(loaded.model),
        cut=False,
        token_budget=1024,
    )


def tiny_context(scratch: Path, *, references: int = 4, seed: int = 0, **options: Any) -> Context:
    """A warmed tiny student with references, warm-up set and a steady judge."""
    student = tiny_student(**options)
    warmup = tiny_examples("warmup", 8)
    warmed(student, warmup)
    return Context(
        student=student,
        reference=tiny_examples("reference", references),
        warmup=warmup,
        scratch=scratch,
        seed=seed,
        services={"judge": SteadyJudge()},
    )


def check_estimator(
    estimator: Estimator,
    make_context: Callable[[Path], Context] = tiny_context,
    candidates: Sequence[Example] | None = None,
    *,
    tolerance: float = 1e-3,
) -> None:
    """Checks every promise of the estimator contract on a small student with real Adam moments.

    Args:
        estimator: the method with its options.
        make_context: a warmed student and its data; the tiny Llama by default.
        candidates: what is scored; short texts that fit the tiny Llama by default.
        tolerance: how much batching and order may move a score, as a share of the scores' spread.

    Raises:
        ContractError: the first promise that is broken, with the numbers.
    """
    candidates = tiny_examples("candidate", 6) if candidates is None else list(candidates)
    _check_declaration(estimator)
    with tempfile.TemporaryDirectory() as folder:
        ctx = make_context(Path(folder))
        before = _state(ctx.student)
        scorer = estimator.prepare(ctx)
        _check_state(before, ctx.student, "prepare")
        values = _scores(scorer, candidates)
        _check_state(before, ctx.student, "the scorer")
        _check_close(values, _scores(scorer, candidates), 1e-12, "scored twice by one scorer")
        singles = np.concatenate([_scores(scorer, [c]) for c in candidates])
        _check_close(values, singles, tolerance, "scored one at a time")
        backwards = _scores(scorer, candidates[::-1])[::-1]
        _check_close(values, backwards, tolerance, "scored in reverse order")
        again = _scores(estimator.prepare(ctx), candidates)
        _check_close(values, again, tolerance, "prepared again with the same seed")
    if estimator.scale != "rank":
        _check_sign(estimator, make_context)


def _check_declaration(estimator: Estimator) -> None:
    parameters = vars(type(estimator)).get("__dataclass_params__")
    if parameters is None or not parameters.frozen:
        raise ContractError(f"{type(estimator).__name__} must be a frozen dataclass")
    if estimator.scale not in ("nats", "signed", "rank"):
        raise ContractError(f"scale is {estimator.scale!r}: expected 'nats', 'signed' or 'rank'")


def _scores(scorer: Callable[[Sequence[Example]], Any], examples: Sequence[Example]) -> Array:
    result = scorer(examples)
    try:
        scores = as_scores(result, len(examples))
    except ValueError as error:
        raise ContractError(str(error)) from error
    if scores.value.dtype != np.float64:
        raise ContractError(f"scores have dtype {scores.value.dtype}: expected float64")
    if scores.per_reference is not None:
        means = scores.per_reference.mean(axis=1)
        if not np.allclose(means, scores.value, rtol=1e-9, atol=1e-12):
            raise ContractError("the mean of per_reference is not the value")
    return scores.value


def _check_close(expected: Array, got: Array, tolerance: float, how: str) -> None:
    spread = float(np.ptp(expected)) or float(np.abs(expected).max()) or 1.0
    worst = int(np.abs(expected - got).argmax())
    if abs(expected[worst] - got[worst]) > tolerance * spread:
        raise ContractError(
            f"candidate {worst} scored {expected[worst]:.6g}, but {got[worst]:.6g} when {how}: "
            f"more than {tolerance:g} of the spread {spread:.3g}"
        )


def _check_sign(estimator: Estimator, make_context: Callable[[Path], Context]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ctx = make_context(Path(folder))
        only = dataclasses.replace(ctx, reference=list(ctx.reference)[:1])
        twin = dataclasses.replace(only.reference[0], id="twin")
        value = float(_scores(estimator.prepare(only), [twin])[0])
    if not value > 0:
        raise ContractError(
            f"a copy of the only reference example scored {value:.6g}: expected > 0, "
            "since positive means that a step on it lowers the reference loss"
        )


def _state(student: Student) -> dict[str, Any]:
    """Everything of the student that a method could disturb, copied."""
    model, state = student.model, student.optimizer.state_dict()
    return {
        "weights": {n: p.detach().clone() for n, p in model.named_parameters()},
        "buffers": {n: b.detach().clone() for n, b in model.named_buffers()},
        "gradients": {
            n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()
        },
        "trainable flags": {n: p.requires_grad for n, p in model.named_parameters()},
        "train/eval mode": {n: m.training for n, m in model.named_modules()},
        "modules": {n: type(m).__name__ for n, m in model.named_modules()},
        "hooks": {n: _hooks(m) for n, m in model.named_modules()},
        "optimizer moments": copy.deepcopy(state["state"]),
        "optimizer settings": copy.deepcopy(state["param_groups"]),
        "random state": torch.get_rng_state(),
    }


def _hooks(module: torch.nn.Module) -> int:
    return sum(
        len(hooks)
        for hooks in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
    )


def _check_state(before: dict[str, Any], student: Student, who: str) -> None:
    after = _state(student)
    for part, expected in before.items():
        if not _same(expected, after[part]):
            raise ContractError(
                f"{who} left the student's {part} changed: put back what you change"
            )


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(_same(v, right[k]) for k, v in left.items())
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(_same, left, right))
    return bool(left == right)
