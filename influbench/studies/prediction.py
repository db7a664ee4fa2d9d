"""Does a score predict training? Short real trainings on what it ranks high, middling and low.

From one state of the student, for each method and seed: draw three quarters of the candidates, cut
them into thirds by score, train on each third, and measure how far the held-out loss falls (the
gain, nats per response token; positive = it fell). A useful method has ``gain_top`` above
``gain_bottom`` and a positive correlation between a third's mean score and its gain.

Addition and removal curves ask it of more than thirds: the held-out loss after training on the top
P % of what was drawn (``addition_P``), and on all but the top P % (``removal_P``).

The linear-datamodelling score (LDS; Park et al., arXiv 2303.14186) asks the same of random subsets
that are shared by all methods: the Spearman correlation, over a bank of trainings, of the
subset's summed score with its gain. It is independent of how any method ranks, and the bank is paid
once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from pydantic import Field

from influbench import training
from influbench.config import Config
from influbench.data.records import Example, ModelRef, ResultRow
from influbench.errors import UserError
from influbench.files import digest
from influbench.results import row_of
from influbench.statistics.agreement import spearman
from influbench.statistics.bootstrap import interval
from influbench.statistics.estimate import Estimate
from influbench.statistics.seeds import over_seeds
from influbench.store.session import Session
from influbench.training import Heard, SFTConfig, SFTSettings, Subset

PARTS = ("top", "middle", "bottom")
Correlation = Callable[[np.ndarray, np.ndarray], float]


class PredictionConfig(Config):
    """How the trainings are done."""

    sft: SFTSettings = SFTSettings(learning_rate=2e-5, batch_size=4)
    share: float = Field(default=0.75, gt=0, le=1, description="of the candidates, drawn a seed")
    bank: int = Field(default=0, ge=0, description="trainings on random subsets for the LDS")
    curve: tuple[int, ...] = Field(
        default=(), description="percent: trainings on the top so many, and without them"
    )
    bank_share: float = Field(default=0.5, gt=0, lt=1, description="of the candidates, a subset")


@dataclass(frozen=True)
class Trained:
    """One training on a part of the candidates."""

    part: str
    seed: int
    ids: tuple[str, ...]
    gain: float
    """Mean drop of the held-out loss, nats per response token."""
    loss: float
    """The held-out loss after it, nats per response token."""


@dataclass
class Trainings:
    """Trainings from one state of the student, each done once."""

    cfg: PredictionConfig
    candidates: Mapping[str, Example]
    held_out: Sequence[Example]
    student: ModelRef
    session: Session
    device: str = "auto"

    def gains(self, parts: Sequence[tuple[str, Sequence[str]]], seed: int) -> list[Trained]:
        """Trains on each of the named parts and measures how far the held-out loss drops.

        Parts are told apart by their place, so that several may have one name.
        """
        told = [tuple(sorted(ids)) for _, ids in parts]
        before, *after = self._losses([(), *told], seed, parts[0][0])
        return [
            Trained(part, seed, ids, before - loss, loss)
            for (part, _), ids, loss in zip(parts, told, after, strict=True)
        ]

    def _losses(self, subsets: Sequence[tuple[str, ...]], seed: int, label: str) -> list[float]:
        """Held-out loss after a training on each subset, nats per response token."""
        entry = self.session.run(
            training.SHORT_TRAININGS,
            self.cfg.sft.into(SFTConfig, seed=seed, device=self.device),
            [Subset(ids=ids) for ids in subsets],
            list(self.candidates.values()),
            self.held_out,
            self.student,
            label=label,
        )
        return [heard.loss for heard in entry.records("losses", Heard)]


def thirds(scores: Mapping[str, float]) -> dict[str, tuple[str, ...]]:
    """The best, the middle and the worst third; what does not divide by three is left out.

    Equal scores are ordered by a digest of the id, which no method knows.

    Raises:
        UserError: fewer than three candidates.
    """
    size = len(scores) // 3
    if not size:
        raise UserError(f"thirds: expected 3 candidates or more, got {len(scores)}")
    best = sorted(scores, key=lambda name: (-scores[name], digest(f"thirds:{name}")))
    middle = (len(best) - size) // 2
    cuts = (best[:size], best[middle : middle + size], best[-size:])
    return {part: tuple(names) for part, names in zip(PARTS, cuts, strict=True)}


def shares(scores: Mapping[str, float], percent: Sequence[int]) -> dict[str, tuple[str, ...]]:
    """The top so many percent (``addition_P``) and what they leave (``removal_P``), by name.

    Ties as in :func:`thirds`. All of the candidates are no removal, none of them are no training.
    """
    best = sorted(scores, key=lambda name: (-scores[name], digest(f"thirds:{name}")))
    found: dict[str, tuple[str, ...]] = {}
    for wanted in percent:
        count = how_many(wanted / 100, len(best))
        found[f"addition_{wanted}"] = tuple(best[:count])
        if count < len(best):
            found[f"removal_{wanted}"] = tuple(best[count:])
    return found


def subset(ids: Sequence[str], share: float, seed: str) -> tuple[str, ...]:
    """A random share of the ids, at least one."""
    drawn = sorted(ids, key=lambda name: digest(f"{seed}:{name}"))
    return tuple(drawn[: how_many(share, len(drawn))])


def how_many(share: float, of: int) -> int:
    """A share of so many, at least one."""
    return max(1, round(share * of))


def predict(
    scores: Mapping[str, float], trainings: Trainings, seeds: Sequence[int]
) -> list[Trained]:
    """Trains on each third by these scores, and on each share of the curves, for each seed."""
    found: list[Trained] = []
    for seed in seeds:
        names = subset(list(scores), trainings.cfg.share, f"prediction:{seed}")
        drawn = {name: scores[name] for name in names}
        parts = (thirds(drawn) | shares(drawn, trainings.cfg.curve)).items()
        # All that was drawn is the same for every method: a stage of its own, made once.
        for whole in (False, True):
            if own := [(part, ids) for part, ids in parts if (len(ids) == len(drawn)) is whole]:
                found += trainings.gains(own, seed)
    return found


def bank(trainings: Trainings, seed: int) -> list[Trained]:
    """Trainings on random subsets, shared by all methods."""
    names, share = sorted(trainings.candidates), trainings.cfg.bank_share
    drawn = [subset(names, share, f"bank:{seed}:{n}") for n in range(trainings.cfg.bank)]
    return trainings.gains([("bank", ids) for ids in drawn], seed) if drawn else []


def result_rows(
    scores: Mapping[str, float],
    found: Sequence[Trained],
    banked: Sequence[Trained],
    base: ResultRow,
) -> list[ResultRow]:
    """What the trainings say of one method.

    ``gain_top``, ``gain_middle``, ``gain_bottom`` and ``gain_top_minus_bottom`` (mean over seeds
    with a Student's t interval), ``addition_P/heldout_loss`` and ``removal_P/heldout_loss`` (the
    same), ``gain_correlation`` (Pearson, mean score of a third with its
    gain) and ``lds``; the last two with bootstrap intervals over trainings.
    """
    by_part = {p: np.array([t.gain for t in found if t.part == p]) for p in PARTS}
    rows: list[ResultRow] = []
    numbers = {f"gain_{part}": gains for part, gains in by_part.items()}
    numbers["gain_top_minus_bottom"] = by_part["top"] - by_part["bottom"]
    for metric, values in numbers.items():
        gains = [Estimate(value=float(gain), n=1, unit="nats/token") for gain in values]
        rows.append(row_of(base, metric, replace(over_seeds(gains), n=len(gains))))
    for part in dict.fromkeys(t.part for t in found if t.part not in PARTS):
        losses = [Estimate(value=t.loss, n=1, unit="nats/token") for t in found if t.part == part]
        row = row_of(base, f"{part}/heldout_loss", over_seeds(losses, (0.0, math.inf)))
        rows.append(replace(row, n=len(losses)))
    told = np.array([[_mean(scores, t), t.gain] for t in found if t.part in PARTS])
    rows += _correlated(replace(base, metric="gain_correlation"), told, _pearson)
    if banked:
        told = np.array([[_mean(scores, t) * len(t.ids), t.gain] for t in banked])
        rows += _correlated(replace(base, metric="lds"), told, spearman)
    return rows


def _mean(scores: Mapping[str, float], trained: Trained) -> float:
    return float(np.mean([scores[name] for name in trained.ids]))


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    if not (np.ptp(x) and np.ptp(y)):  # a mean of equal numbers may differ from them in a last bit
        return math.nan
    a, b = x - x.mean(), y - y.mean()
    return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))


def _correlated(base: ResultRow, told: np.ndarray, correlation: Correlation) -> list[ResultRow]:
    rng = np.random.default_rng(int(digest(f"{base.seed}:{base.metric}"), 16))
    found = interval(told, lambda rows: correlation(rows[:, 0], rows[:, 1]), rng)
    return [row_of(base, base.metric, found)] if found.defined else []
