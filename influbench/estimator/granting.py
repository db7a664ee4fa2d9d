"""A method gets what its facts name and no more: anything else raises when it is touched."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

from influbench.errors import UserError
from influbench.estimator import HELD, Context, Estimator, Facts, Need, Scorer

if TYPE_CHECKING:
    import torch


class UndeclaredNeedError(UserError):
    """A method touched what its facts do not name."""


def prepare(estimator: Estimator, ctx: Context, name: str) -> Scorer:
    """The scorer of a method that is given what its facts name, and no more.

    Args:
        estimator: the method.
        ctx: all that there is.
        name: what the method is called in messages.

    Raises:
        UserError: something is missing.
        UndeclaredNeedError: the method touches what its facts do not name.
    """
    return estimator.prepare(_granted(ctx, estimator.facts, name))


class _Withheld:
    """Stands where a method must not reach."""

    def __init__(self, name: str, what: str, need: Need):
        self._line = (
            f"estimator '{name}' touches the {what} and does not name '{need}' among its needs: "
            "add it to the method's facts"
        )

    def __getattr__(self, _: str) -> Any:
        raise UndeclaredNeedError(self._line)

    def __len__(self) -> int:
        raise UndeclaredNeedError(self._line)

    def __getitem__(self, _: Any) -> Any:
        raise UndeclaredNeedError(self._line)


def _granted(ctx: Context, facts: Facts, name: str) -> Context:
    student: Any = ctx.student
    if "student" not in facts.needs:
        student = _Withheld(name, "student", "student")
    elif not {"gradients", "moments"} & facts.needs:
        student = _with_optimizer(student, _Withheld(name, "optimizer", "moments"))
    elif "moments" not in facts.needs:
        student = _with_optimizer(student, _without_state(student.optimizer))
    warmup: Any = _Withheld(name, "warm-up set", "warmup")
    if "warmup" in facts.needs:
        warmup = ctx.warmup
    judge = ctx.judge if "judge" in facts.needs else None
    granted = replace(
        ctx,
        student=student,
        warmup=warmup,
        judge=judge,
        objective=ctx.objective if facts.objectives else "nll",
        name=name,
    )
    if "judge" in facts.needs:
        granted.ask_judge()
    if "language_model" in facts.needs:
        granted.language_student()
    return granted


def _with_optimizer(student: Any, optimizer: Any) -> Any:
    """The same student with another optimizer, where that is a field of its own."""
    if is_dataclass(student) and "optimizer" in {field.name for field in fields(student)}:
        assert not isinstance(student, type)
        return replace(student, optimizer=optimizer)
    return student


def _without_state(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """An optimizer over the same weights that has not stepped; weights that it holds stay."""
    kind: Any = type(optimizer)
    bare = kind([{**group} for group in optimizer.param_groups])
    for weight, state in optimizer.state.items():
        if HELD in state:
            bare.state[weight] = {HELD: state[HELD]}
    return bare
