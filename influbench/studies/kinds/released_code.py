"""What does each quirk of the released code do to the ranking, the signs and the pairs?

The quirks that touch the scores: one row each. The one that touches the teacher only, DPO without
the chat template that it is sampled with: how far the same pairs then move the teacher apart under
the prompt that it is sampled with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from pydantic import Field
from torch.nn import functional

from influbench import models, scoring
from influbench.data.records import ModelRef, Pair, ResultRow
from influbench.loop import pipeline, preferences
from influbench.loop.preferences import PreferenceConfig
from influbench.loop.settings import RunConfig
from influbench.loop.steps import Steps
from influbench.models.templates import templated
from influbench.results import RunResult, blank_row, cost_rows, publish, row_of
from influbench.scoring import Scored
from influbench.store.session import Session
from influbench.studies import paper_mode
from influbench.studies.kind import Kind
from influbench.studies.paper_mode import Variant
from influbench.training import DPO, DPOStageConfig
from influbench.training.pair_tokens import tokenise

FACTS = {"weights_moved": "fraction", "noise_floor": "nats/token"}
"""What a variant says of itself, and its unit."""
BEST_WORST = PreferenceConfig(rule="best_worst")
LENGTH = 8192
"""Of the teacher's context: nothing is cut."""
METRICS = (
    *("spearman", "sign_agreement", "pairs", "same_pairs", "best_worst", "spread"),
    *("weights_moved", "noise_floor", "teacher_margin"),
)


class ReleasedCodeConfig(RunConfig):
    """The run that writes the candidates, and how many of them are scored."""

    first: int = Field(default=32, ge=2, description="the first so many that the teacher wrote")


def run(cfg: ReleasedCodeConfig, session: Session, study: str, run_id: str) -> RunResult:
    """Scores the same candidates with each quirk, and tells what it changes."""
    steps = Steps(cfg, session, pipeline.check(cfg))
    teacher, student = (templated(model, session.run) for model in (cfg.teacher, cfg.student))
    seeds = steps.sets.seeds
    warmup = steps.generate(teacher, cfg.sizes.warmup, "round1-warmup", seeds=seeds)
    written = steps.generate(
        teacher, cfg.sizes.candidates, "round1-candidates", seeds=steps.sets.seeds
    )[: cfg.first]
    warmed = steps.warm_up(student, warmup)

    def score(variant: Variant) -> Scored:
        data = (variant.examples(written), steps.sets.reference, [w.example() for w in warmup])
        method = variant.method(seed=cfg.seed, device=cfg.device)
        return scoring.score_candidates(session, method, *data, warmed, label=variant.name)

    variants = (paper_mode.CORRECTED, *paper_mode.QUIRKS, paper_mode.ALL)
    found = {variant.name: score(variant) for variant in variants}
    right = found["corrected"].scores
    rows: list[ResultRow] = []
    for name, scored in found.items():
        blank = replace(blank_row(study, run_id, name, cfg.seed), n=len(written))
        effect = paper_mode.effect(written, right, scored.scores, cfg.seed)
        rows += [
            row_of(blank, metric.name, getattr(effect, metric.name))
            for metric in dataclasses.fields(effect)
        ]
        rows += [
            replace(blank, metric=fact, value=scored.facts[fact], unit=unit)
            for fact, unit in FACTS.items()
            if fact in scored.facts
        ]
        rows += cost_rows([r for r in scored.ledger if r.stage == "score"], blank)
    pairs = preferences.build_pairs(BEST_WORST, written, right)
    for name, margin in _teacher_margins(steps, teacher, pairs).items():
        blank = replace(blank_row(study, run_id, name, cfg.seed), n=len(pairs), unit="nats")
        rows.append(replace(blank, metric="teacher_margin", value=margin))
    return publish(
        cfg.model_dump(mode="json"),
        cfg.device,
        rows,
        session,
        scores={name: scored.scores for name, scored in found.items()},
        groups={c.id: c.group for c in written},
    )


def _teacher_margins(steps: Steps, teacher: ModelRef, pairs: Sequence[Pair]) -> dict[str, float]:
    """How far DPO on the same pairs moves chosen and rejected apart, with and without template.

    Mean over pairs of the change of log p(chosen) - log p(rejected), in nats, given the prompt that
    the teacher is sampled with.
    """
    cfg = steps.cfg
    before = _margins(steps.session.opened(teacher), pairs, cfg.device)
    found: dict[str, float] = {}
    for name, bare in (("dpo_as_sampled", False), ("no_chat_template_in_dpo", True)):
        told = cfg.dpo.model_copy(update={"no_chat_template": bare})
        stage = told.into(DPOStageConfig, seed=cfg.seed, device=cfg.device)
        taught = steps.session.run(DPO, stage, pairs, teacher, label=name).model("teacher")
        taught = steps.session.opened(taught)
        found[name] = float(np.mean(_margins(taught, pairs, cfg.device) - before))
    return found


@torch.no_grad()
def _margins(teacher: ModelRef, pairs: Sequence[Pair], device: str) -> np.ndarray:
    """Log p(chosen) - log p(rejected) of each pair, shape [pair], nats."""
    loaded = models.load(teacher, device=device)

    def log_probability(prompt: list[int], completion: list[int]) -> float:
        ids = torch.tensor([[*prompt, *completion]], device=loaded.model.device)
        logits = loaded.model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
        return -float(functional.cross_entropy(logits, ids[0, len(prompt) :], reduction="sum"))

    rows = [tokenise(loaded.tokenizer, pair, LENGTH) for pair in pairs]
    return np.array(
        [log_probability(r.prompt, r.chosen) - log_probability(r.prompt, r.rejected) for r in rows]
    )


KIND = Kind(settings=ReleasedCodeConfig, check=pipeline.check, run=run, metrics=METRICS)
