"""When does selecting pay for itself? From how many candidates on, and for how dear a training.

Training on a method's top share s of N candidates gives a loss for which rows drawn at random need
the share s' > s. What is saved is the training of (s' - s) N rows; what it costs is the scoring::

    cost(N) = prepare + N score          saved(N) = (s' - s) N · 3 R

in forward passes of the student that scores (a training row is 3 of them). R says how much dearer
a row's training is than one epoch of that student: epochs, and how much larger the model is that
is trained. Yin and Rush (arXiv 2410.16208) find that gradients pay at R of ten or
more only. Where R is stated, it pays from N = prepare / (3 R (s' - s) - score) candidates on;
``ratio`` is the R above which it pays at all. The warm-up that a score may need is not in its
cost, nor does a mean over seeds of ``ratio`` exist where it never pays in one of them: the mean of
the share s' does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

BACKWARD_TOO = 3
"""Passes of a row that is trained on: a backward counts two."""


@dataclass(frozen=True, kw_only=True)
class BreakEven:
    """What a method must save to be worth its scores."""

    share: float
    """Of the candidates that random rows need for the same loss, in (0, 1]."""
    at_least: bool
    """No share of random rows did as well: ``share`` is 1, and the saving at least what is said."""
    ratio: float
    """R above which many candidates repay their scores; infinite where nothing is saved."""
    candidates: float
    """From how many candidates on it pays at the stated R; infinite where never."""


def equal_share(loss: float, random: Mapping[float, float]) -> tuple[float, bool]:
    """The share of random rows with that loss, and whether even all of them do worse.

    Between the shares that were trained on it is linear. A larger share that did no better than a
    smaller one is left out: nobody would pay for it, and a plateau in its place would make the
    share jump where the loss passes it, in the method's favour.

    Args:
        loss: after training on a method's selection, nats per response token.
        random: share in (0, 1] to loss after training on so many random rows.
    """
    at: list[float] = []
    for share in sorted(random):
        if not at or random[share] < random[at[-1]]:
            at.append(share)
    if loss < random[at[-1]]:
        return 1.0, True
    # np.interp wants rising x: losses fall with the share.
    return float(np.interp(-loss, [-random[share] for share in at], at)), False


def break_even(
    share: float,
    loss: float,
    random: Mapping[float, float],
    prepare: float,
    score: float,
    dearer: float = 10.0,
) -> BreakEven:
    """When a selection repays its scores.

    Args:
        share: of the candidates that the method selects.
        loss: after training on them.
        random: see :func:`equal_share`.
        prepare: forward passes paid once.
        score: forward passes a candidate.
        dearer: R of ``candidates``.
    """
    equal, at_least = equal_share(loss, random)
    saved = max(0.0, equal - share)
    margin = BACKWARD_TOO * dearer * saved - score
    return BreakEven(
        share=equal,
        at_least=at_least,
        ratio=score / (BACKWARD_TOO * saved) if saved else math.inf,
        candidates=prepare / margin if margin > 0 else math.inf,
    )
