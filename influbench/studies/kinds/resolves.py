"""Do training and evaluation resolve it? Students trained on mixtures with a known share of use.

The last link of the chain: the more of a training set is of the evaluation's own kind, the lower
the held-out loss must be. All mixtures have equal counts and lengths and share their rows as far as
they can: 25 % useful is 0 % with a quarter of the rows exchanged. The slope over shares, against
its scatter over seeds, is the power of a whole study of that size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from influbench.config import Config, Seed, transport
from influbench.data.records import Example, Outcome
from influbench.evaluation.suites import losses
from influbench.evaluation.suites.losses import LossConfig
from influbench.files import digest
from influbench.models import ModelConfig
from influbench.models.templates import check_template, templated
from influbench.results import RunResult, blank_row, publish, row_of
from influbench.statistics.bootstrap import interval
from influbench.statistics.outcomes import grid, summary
from influbench.store.session import Session
from influbench.studies import mixtures
from influbench.studies.kind import Kind
from influbench.studies.mixtures import MixtureConfig
from influbench.training import SFT, SFTConfig, SFTSettings

BASE = "base"


class ResolvesConfig(Config):
    """A student, and the mixtures that it is trained on, each from the base student."""

    student: ModelConfig
    mixture: MixtureConfig
    shares: tuple[float, ...] = Field(default=(0.0, 0.25, 0.5, 1.0), min_length=2)
    num_training: int = Field(default=128, ge=1, description="rows a student learns")
    num_evaluation: int = Field(default=64, ge=2, description="useful rows held out")
    sft: SFTSettings = SFTSettings()
    device: str = transport("auto", "where all models of the study stand")
    seed: Seed = Field(default=0, description="of the rows drawn and of the trainings")


def load(cfg: ResolvesConfig) -> tuple[list[Example], list[Example], list[Example]]:
    """Useful rows, others beside them, and useful rows held out (the same for every seed).

    Raises:
        UserError: a source is too small.
    """
    told, size = cfg.mixture, mixtures.sizes(cfg.student)
    every = mixtures.drawn(told.useful, told.longest, 0, size)
    held_out, *_ = mixtures.split(every, cfg.num_evaluation)
    kept = {row.id for row in held_out}
    rest = mixtures.drawn(told.useful, told.longest, cfg.seed, size)
    useful, *_ = mixtures.split([row for row in rest if row.id not in kept], cfg.num_training)
    others = mixtures.drawn(told.other, told.longest, cfg.seed, size)
    others = mixtures.beside(useful, others, size)
    return mixtures.named(useful, "useful"), mixtures.named(others, "other"), held_out


def check(cfg: ResolvesConfig) -> None:
    """Refuses sources that are too small, and a student without a template."""
    load(cfg)
    check_template(cfg.student)


def run(cfg: ResolvesConfig, session: Session, study: str, run_id: str) -> RunResult:
    """Trains a student a share and tells its held-out loss, and the slope over shares."""
    useful, others, held_out = load(cfg)
    base = templated(cfg.student, session.run)
    everywhere: dict[str, Any] = {"seed": cfg.seed, "device": cfg.device}
    outcomes: dict[str, list[Outcome]] = {}
    for share in (None, *cfg.shares):
        student, name = base, BASE
        if share is not None:
            name = f"{share:.0%} useful"
            count = round(share * cfg.num_training)
            rows = [*useful[:count], *others[count:]]
            sft = cfg.sft.into(SFTConfig, **everywhere)
            student = session.run(SFT, sft, rows, base, label=name).model("student")
        told = LossConfig(device=cfg.device)
        entry = session.run(losses.STAGE, told, held_out, (), student, label=name)
        outcomes[name] = entry.records("outcomes", Outcome)
    rows = []
    for name, found in outcomes.items():
        rng = np.random.default_rng(int(digest(f"resolves:{cfg.seed}"), 16))
        blank = blank_row(study, run_id, name, cfg.seed)
        rows.append(row_of(blank, "heldout_loss", summary(found, rng).scaled(1.0, "nats/token")))
    trained = [found for name, found in outcomes.items() if name != BASE]
    table, _ = grid(trained, "heldout_loss")
    rng = np.random.default_rng(int(digest(f"resolves:slope:{cfg.seed}"), 16))
    slope = interval(table.T, lambda drawn: _slope(cfg.shares, drawn), rng)
    blank = blank_row(study, run_id, "slope", cfg.seed)
    rows.append(row_of(blank, "heldout_loss_slope", slope.scaled(1.0, "nats/token")))
    return publish(cfg.model_dump(mode="json"), cfg.device, rows, session, outcomes=outcomes)


def _slope(shares: Sequence[float], losses_of: np.ndarray) -> float:
    """Of the straight line through the mean losses; ``losses_of`` has shape [prompt, share]."""
    return float(np.polyfit(np.array(shares), losses_of.mean(axis=0), 1)[0])


KIND = Kind(
    settings=ResolvesConfig, check=check, run=run, metrics=("heldout_loss", "heldout_loss_slope")
)
