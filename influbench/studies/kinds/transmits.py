"""Does DPO transmit a preference? Pairs chosen by a known rule, and what the taught teacher writes.

The middle link of the chain. The rule is read off the instruction's text, so its truth is known:
``length`` (words) or ``arithmetic`` (two numbers, or one with a word of arithmetic). The teacher is
taught on the rule's pairs, on the same pairs the other way round, and on the same pairs each turned
by chance; an untaught teacher stands beside them. All write for the same prompts with the same
stream of chance, and the rule is applied to what they write.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field

from influbench import data, generation
from influbench.config import Config, Seed, transport
from influbench.data import DataConfig
from influbench.data.records import Candidate, ModelRef, Outcome, Pair, Score
from influbench.errors import UserError
from influbench.files import digest
from influbench.generation.attempts import GenerationConfig, GenerationSettings
from influbench.loop import arms, preferences
from influbench.loop.arms import BASELINE
from influbench.loop.preferences import PreferenceConfig
from influbench.models import ModelConfig
from influbench.models.templates import check_template, templated
from influbench.results import RunResult, blank_row, publish, row_of
from influbench.statistics.estimate import Estimate
from influbench.statistics.outcomes import summary
from influbench.store.session import Session
from influbench.studies.kind import Kind
from influbench.training import DPO, DPOStageConfig
from influbench.training.settings import DPOSettings

Rule = Literal["length", "arithmetic"]
WORDS = (
    "add|sum|subtract|minus|plus|multipl|divid|percent|average|total|how many|how much|calculate|"
    "square|double|half|solve|equation"
)


class TransmitsConfig(Config):
    """A teacher, what it writes, and the rule that makes pairs of it."""

    teacher: ModelConfig
    rule: Rule
    data: DataConfig = DataConfig()
    generation: GenerationSettings = GenerationSettings()
    num_candidates: int = Field(default=128, ge=2, description="written by the untaught teacher")
    num_written: int = Field(default=64, ge=2, description="written by each taught teacher")
    dpo: DPOSettings = DPOSettings()
    device: str = transport("auto", "where all models of the study stand")
    seed: Seed = 0


def length(instruction: str) -> float:
    """How many words it has."""
    return float(len(instruction.split()))


def arithmetic(instruction: str) -> float:
    """1 for an instruction about arithmetic, 0 for others."""
    numbers = len(re.findall(r"\d+", instruction))
    told = re.search(rf"\b({WORDS})", instruction, re.I) is not None
    return float(numbers >= 2 or (numbers == 1 and told))


RULES: dict[Rule, tuple[Callable[[str], float], str]] = {
    "length": (length, "words"),
    "arithmetic": (arithmetic, "share"),
}
"""What a rule says of an instruction, and in what unit."""


def check(cfg: TransmitsConfig) -> None:
    """Refuses a teacher without a template, and too few seed prompts."""
    check_template(cfg.teacher)
    data.load_seed_prompts(cfg.data)


def by_chance(pairs: Sequence[Pair], seed: int) -> list[Pair]:
    """The same pairs, each turned or not by a coin of its own."""
    turned = arms.flipped(pairs)
    coins = [int(digest(f"by chance:{seed}:{pair.id}"), 16) % 2 for pair in pairs]
    return [b if coin else a for a, b, coin in zip(pairs, turned, coins, strict=True)]


def run(cfg: TransmitsConfig, session: Session, study: str, run_id: str) -> RunResult:
    """Teaches on the rule's pairs in three ways and applies the rule to what is then written.

    Raises:
        UserError: the rule tells no two siblings apart.
    """
    rule, unit = RULES[cfg.rule]
    everywhere: dict[str, Any] = {"seed": cfg.seed, "device": cfg.device}
    seeds = data.load_seed_prompts(cfg.data)
    untaught = templated(cfg.teacher, session.run)

    def write(teacher: ModelRef, count: int, salt: str, label: str) -> list[Candidate]:
        told = cfg.generation.into(
            GenerationConfig, num_candidates=count, dtype=cfg.teacher.dtype, **everywhere
        )
        entry = session.run(generation.STAGE, told, seeds, teacher, salt, label=label)
        return entry.records("candidates", Candidate)

    candidates = write(untaught, cfg.num_candidates, "candidates", "candidates")
    scores = [Score(id=c.id, value=rule(c.instruction)) for c in candidates]
    pairs = preferences.build_pairs(PreferenceConfig(rule="best_worst"), candidates, scores)
    if not pairs:
        raise UserError(
            f"rule '{cfg.rule}' tells no two siblings among {len(candidates)} candidates apart: "
            "raise num_candidates"
        )
    ways = {
        BASELINE: None,
        "random": by_chance(pairs, cfg.seed),
        cfg.rule: pairs,
        f"flipped:{cfg.rule}": arms.flipped(pairs),
    }
    outcomes: dict[str, list[Outcome]] = {}
    for name, own in ways.items():
        teacher = untaught
        if own is not None:
            told = cfg.dpo.into(DPOStageConfig, **everywhere)
            teacher = session.run(DPO, told, own, untaught, label=name).model("teacher")
        written = write(teacher, cfg.num_written, "written", f"written-{name}")
        outcomes[name] = [
            Outcome(metric=f"written_{cfg.rule}", item=c.id, value=rule(c.instruction))
            for c in written
        ]
    rows = []
    for name, found in outcomes.items():
        blank = blank_row(study, run_id, name, cfg.seed)
        rng = np.random.default_rng(int(digest(f"transmits:{cfg.seed}"), 16))
        rows.append(row_of(blank, f"written_{cfg.rule}", summary(found, rng).scaled(1.0, unit)))
        if ways[name] is not None:
            rows.append(row_of(blank, "pairs", Estimate(value=len(pairs), n=1, unit="pairs")))
    return publish(cfg.model_dump(mode="json"), cfg.device, rows, session, outcomes=outcomes)


KIND = Kind(
    settings=TransmitsConfig,
    check=check,
    run=run,
    metrics=("written_length", "written_arithmetic", "pairs"),
)
