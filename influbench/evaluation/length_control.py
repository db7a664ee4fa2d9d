"""The length-controlled win rate of AlpacaEval 2 (arXiv 2404.04475): what if lengths were equal?

A logistic model of the preferences on tanh(length difference / its standard deviation), on the
instruction's difficulty where that table is given, and on a constant. The prediction at length
difference 0 is the length-controlled preference. As in the official package the weights have an L1
penalty whose strength is chosen by 5-fold cross-validation, and with the hub's table of gamed
baselines its rows join the fit at weight 0.2 / 2 (the official variant).

Deviation: the official standard error is the spread of the predictions over prompts, which is 0
where they have no difficulty. Ours is the delta method's, with the uncertainty of the fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import expit

from influbench.errors import UserError, require
from influbench.statistics.estimate import Estimate

Array = npt.NDArray[np.float64]
Variant = Literal["length_only", "difficulty", "official"]
STRENGTHS = np.logspace(-4, 4, 10)
"""Candidates for the inverse strength of the penalty."""
FOLDS = 5
TOLERANCE = 1e-4
"""The official package's: its solver stops up to 0.06 points from the optimum."""
GAMED_WEIGHT = 0.2 / 2
"""Regularisation 0.2 shared by the table's two gamed baselines."""
_COLUMNS = ("preference", "index", "std_delta_len", "instruction_difficulty", "not_gamed_baseline")


@dataclass(frozen=True)
class Gamed:
    """The hub's ``df_gamed.csv``: judgements of gamed baselines, and instructions' difficulties."""

    preference: Array
    """Shape [row], in [0, 1]."""
    length: Array
    """Shape [row]: standardised length difference."""
    difficulty: Array
    """Shape [row]."""
    not_gamed: Array
    """Shape [row]: 1 where the row is of no gamed baseline."""
    by_index: dict[int, float]
    """Difficulty of each of the 805 instructions."""


def read_gamed(path: Path) -> Gamed:
    """Reads the official table.

    Raises:
        UserError: no such file, or a column is missing.
    """
    if not path.is_file():
        raise UserError(
            f"expected AlpacaEval's df_gamed.csv (hub dataset tatsu-lab/alpaca_eval) at {path}"
        )
    table = pd.read_csv(path)
    missing = [name for name in _COLUMNS if name not in table.columns]
    if missing:
        raise UserError(f"{path}: expected the columns {list(_COLUMNS)}, {missing} are missing")
    first = table.drop_duplicates("index")
    return Gamed(
        preference=table["preference"].to_numpy(float),
        length=table["std_delta_len"].to_numpy(float),
        difficulty=table["instruction_difficulty"].to_numpy(float),
        not_gamed=table["not_gamed_baseline"].to_numpy(float),
        by_index=dict(
            zip(
                first["index"].astype(int),
                first["instruction_difficulty"].astype(float),
                strict=True,
            )
        ),
    )


def variant(difficulty: object, gamed: object) -> Variant:
    """Which formula is fitted, to label its result."""
    if gamed is not None:
        return "official"
    return "length_only" if difficulty is None else "difficulty"


def length_controlled_win_rate(
    wins: Array,
    length_model: Sequence[int] | Array,
    length_baseline: Sequence[int] | Array,
    difficulty: Array | None = None,
    gamed: Gamed | None = None,
    tolerance: float = TOLERANCE,
) -> Estimate:
    """Win rate in percent had all answers been as long as the baseline's.

    Args:
        wins: shape [prompt], probability that the model beats the baseline, in [0, 1] (AlpacaEval's
            ``preference`` less 1).
        length_model: shape [prompt], characters of the model's answers.
        length_baseline: shape [prompt], characters of the baseline's answers.
        difficulty: shape [prompt]; None leaves that term out.
        gamed: the hub's table, for the official variant; needs ``difficulty``.
        tolerance: of the fit; less than the official 1e-4 gives the optimum, not the official
        number.

    Raises:
        UserError: too few prompts, wins outside [0, 1], or a table without difficulties.
    """
    wins = np.asarray(wins, dtype=np.float64)
    if len(wins) < FOLDS:
        raise UserError(
            f"a length-controlled win rate needs at least {FOLDS} judged prompts, got {len(wins)}"
        )
    if not ((wins >= 0) & (wins <= 1)).all():
        raise UserError(
            "expected wins in [0, 1] (AlpacaEval preferences less 1), got "
            f"{wins.min():g} to {wins.max():g}"
        )
    if gamed is not None and difficulty is None:
        raise UserError("the official variant needs the difficulty of each prompt: take by_index")
    gap = np.asarray(length_baseline, dtype=np.float64) - np.asarray(length_model, dtype=np.float64)
    spread = gap.std(ddof=1)
    length = np.tanh(gap / spread) if spread > 0 else np.zeros_like(gap)
    hard = [] if difficulty is None else [np.asarray(difficulty, dtype=np.float64)]
    design = np.stack([length, *hard, np.ones_like(length)], axis=1)
    test = np.stack([np.zeros_like(length), *hard, np.ones_like(length)], axis=1)
    rows, targets, weights = design, wins, np.ones_like(wins)
    if gamed is not None:
        more = np.stack([np.tanh(gamed.length), gamed.difficulty, gamed.not_gamed], axis=1)
        # The table comes first, as in the package: it decides which rows share a fold.
        rows = np.concatenate([more, design])
        targets = np.concatenate([gamed.preference, wins])
        kept = gamed.not_gamed + GAMED_WEIGHT * (1 - gamed.not_gamed)
        weights = np.concatenate([kept, weights])
    strength = _cross_validated(rows, targets, weights, tolerance)
    weight = _fit(rows, targets, weights, strength, tolerance, _generator())
    predicted = expit(test @ weight)
    return Estimate(
        value=float(predicted.mean() * 100),
        stderr=100 * _stderr(weight, (rows, weights), (design, wins), test),
        n=len(wins),
        unit="percent",
    )


def _losses(rows: Array, targets: Array, weight: Array) -> Array:
    """Cross-entropy of each row, shape [row]."""
    logits = rows @ weight
    return targets * np.logaddexp(0, -logits) + (1 - targets) * np.logaddexp(0, logits)


def _fit(
    rows: Array,
    targets: Array,
    weights: Array,
    strength: float,
    tolerance: float,
    rng: np.random.RandomState,
) -> Array:
    """Weights that minimise |w| + strength * weighted cross-entropy, shape [feature]."""
    # Imported here: it takes a second, and most commands need no such rate.
    require("loop", "the length-controlled win rate")
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(
        C=strength,
        l1_ratio=1.0,
        solver="liblinear",
        fit_intercept=False,
        random_state=rng,
        tol=tolerance,
        max_iter=100 if tolerance >= TOLERANCE else 10_000,
    )
    if not 0 < targets.sum() < len(targets):
        # The solver cannot fit one label alone.
        targets = np.clip(targets, 1e-6, 1 - 1e-6)
    # A soft label is each of both labels, weighted.
    model.fit(
        np.concatenate([rows, rows]),
        np.repeat([1, 0], len(rows)),
        sample_weight=np.concatenate([weights * targets, weights * (1 - targets)]),
    )
    return model.coef_[0]


def _cross_validated(rows: Array, targets: Array, weights: Array, tolerance: float) -> float:
    """The penalty's inverse strength with the least held-out cross-entropy."""
    # Dealt out from the last row backwards, as scikit-learn's GroupKFold does with equal groups.
    fold = np.arange(len(rows))[::-1] % FOLDS
    held_out = np.zeros(len(STRENGTHS))
    for part in range(FOLDS):
        inside, outside = fold != part, fold == part
        kept = (rows[inside], targets[inside], weights[inside])
        # One generator a fold, as in the package: near ties between strengths hang on it.
        rng = _generator()
        for index, strength in enumerate(STRENGTHS):
            weight = _fit(*kept, float(strength), tolerance, rng)
            loss = weights[outside] * _losses(rows[outside], targets[outside], weight)
            held_out[index] += loss.mean() / FOLDS
    return float(STRENGTHS[int(np.argmin(held_out))])


def _generator() -> np.random.RandomState:
    """The package's generator, for the order in which its solver visits the weights."""
    return np.random.RandomState(123)


def _stderr(
    weight: Array, fitted: tuple[Array, Array], judged: tuple[Array, Array], test: Array
) -> float:
    """Delta-method standard error over prompts of the mean prediction, as a fraction.

    Weights that the penalty set to 0 are taken as fixed, and so are the rows of the gamed table.
    """
    rows, row_weights = fitted
    design, wins = judged
    active = weight != 0
    predicted = expit(test @ weight)
    shift = np.zeros(len(wins))
    if active.any():
        chance = expit(rows @ weight)
        curved = rows[:, active] * (row_weights * chance * (1 - chance))[:, None]
        gradient = (test[:, active] * (predicted * (1 - predicted))[:, None]).mean(axis=0)
        residual = wins - expit(design @ weight)
        direction = np.linalg.lstsq(curved.T @ rows[:, active], gradient, rcond=None)[0]
        shift = (design[:, active] @ direction) * residual
    spread = (predicted - predicted.mean()) / len(wins)
    return float(np.sqrt(np.sum((spread + shift) ** 2)))
