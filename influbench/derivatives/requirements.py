"""What a method needs beyond the texts, or one clear line that says what is missing."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from influbench.errors import UserError
from influbench.estimator import Context
from influbench.records import Example

if TYPE_CHECKING:
    from influbench.judging import Judge
    from influbench.student import LanguageStudent


def language_student(ctx: Context, method: str) -> LanguageStudent:
    """The student, known to be a Hugging Face language model with its tokenizer.

    Raises:
        UserError: it is another kind of student.
    """
    from influbench.student import LanguageStudent

    if not isinstance(ctx.student, LanguageStudent):
        raise UserError(
            f"estimator '{method}' needs a language model as student, got "
            f"{type(ctx.student).__name__}: "
            "choose a method without 'language_model' among its needs ('influbench estimators')"
        )
    return ctx.student


def judge(ctx: Context, method: str) -> Judge:
    """The run's judge.

    Raises:
        UserError: there is none.
    """
    if "judge" not in ctx.services:
        raise UserError(f"estimator '{method}' asks a judge and the run has none: set judge.kind")
    return ctx.services["judge"]


def warmup(ctx: Context, method: str, *, at_least: int = 1) -> Sequence[Example]:
    """The warm-up set.

    Raises:
        UserError: it has too few examples.
    """
    if len(ctx.warmup) < at_least:
        raise UserError(
            f"estimator '{method}' needs a warm-up set of at least {at_least} examples, "
            f"got {len(ctx.warmup)}: give more (--warmup FILE)"
        )
    return ctx.warmup


def package(name: str, extra: str, method: str) -> ModuleType:
    """An optional package.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"estimator '{method}' needs the package '{name}' ({error}): "
            f"pip install 'influbench[{extra}]'"
        ) from error


def parameter_share(share: float, min_share: float, method: str) -> float:
    """``share`` of the trainable parameters, if it is enough.

    Raises:
        UserError: the method covers less than ``min_share`` of them.
    """
    if share < min_share:
        raise UserError(
            f"estimator '{method}' attributes {share:.1%} of the trainable parameters, less than "
            f"its option min_share = {min_share:g}: lower it or choose a method that covers all"
        )
    return share
