"""Does a score hang on what it should, and on nothing else?

The same candidates are scored again with one thing changed, and the ranks compared:

* ``reinitialised/spearman``: the student's weights drawn anew. A score that stays the same does not
  look at what the student has learnt (quanda, arXiv 2410.07158; Adebayo et al., arXiv 1810.03292);
* ``other_warmup/spearman``: the student warmed on as many other examples;
* ``shorter_warmup/spearman``: the student warmed on the first half of its warm-up set. That is a
  training of its own, whose learning rate rises to the same peak in half as many steps, and not the
  state that the longer one passes through;
* ``other_references/spearman``: other references of the same source, the same two draws at every
  seed: a source has an order, and no seed redraws it.

A method that promises the influence on *this* student and *these* references may well change with
them; what a user should know is by how much.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from influbench.data import load_reference
from influbench.errors import UserError
from influbench.results import RunResult, blank_row, row_of
from influbench.store.session import Session
from influbench.studies import scored_student
from influbench.studies.kind import Kind
from influbench.studies.kinds.horizon import agreement
from influbench.studies.scored_student import (
    ScoredStudentConfig,
    Sets,
    load_sets,
    score_all,
)

REDRAWN = "reinitialised"
CHANGES = (REDRAWN, "other_warmup", "shorter_warmup", "other_references")


class SanityConfig(ScoredStudentConfig):
    """A student and what it is shown; warm-up set and references are drawn twice over."""


Case = tuple[SanityConfig, Sets]


def cases(cfg: SanityConfig) -> dict[str, Case]:
    """What is scored: ``""`` as told, then each change, by name.

    Raises:
        UserError: the sources are too small for a second draw.
    """
    warm, wanted = cfg.num_warmup, cfg.data.num_reference
    drawn = load_sets(cfg.model_copy(update={"num_warmup": 2 * warm}))
    twice = cfg.data.model_copy(update={"num_reference": wanted and 2 * wanted})
    pool = load_reference(twice)
    half = wanted or len(pool) // 2
    if len(pool) < 2 * half:
        raise UserError(
            f"data.reference has {len(pool)} pairs: expected {2 * half}, twice data.num_reference; "
            "lower it"
        )
    told = Sets(
        candidates=drawn.candidates,
        warmup=drawn.warmup[:warm],
        reference=tuple(pool[:half]),
    )
    name = f"{cfg.student.name}:random={cfg.seed}"
    redrawn = cfg.model_copy(update={"student": cfg.student.model_copy(update={"name": name})})
    return {
        "": (cfg, told),
        REDRAWN: (redrawn, told),
        "other_warmup": (cfg, replace(told, warmup=drawn.warmup[warm:])),
        "shorter_warmup": (cfg, replace(told, warmup=told.warmup[: max(2, warm // 2)])),
        "other_references": (cfg, replace(told, reference=tuple(pool[half:]))),
    }


def check(cfg: SanityConfig) -> None:
    """Refuses unknown methods, and sources and warm-ups that are too small.

    Raises:
        UserError: likewise.
    """
    scored_student.check(cfg)
    least = min(len(sets.warmup) for _, sets in cases(cfg).values())
    steps = math.ceil(least / cfg.warmup.batch_size) * cfg.warmup.epochs
    if steps < 2:
        raise UserError(
            f"the shorter warm-up would have {steps} optimizer step from {least} examples in "
            f"batches of {cfg.warmup.batch_size}: expected 2 at least, so that Adam has moments; "
            "raise num_warmup or lower warmup.batch_size"
        )


def run(cfg: SanityConfig, session: Session, study: str, run_id: str) -> RunResult:
    """Scores as told and with each change; one correlation a method and change."""
    asked = cases(cfg)
    told, sets = asked.pop("")
    scored = score_all(told, sets, sets.candidates, session)
    names = [example.id for example in sets.candidates]
    rows = []
    for change, (changed, shown) in asked.items():
        again = score_all(changed, shown, shown.candidates, session)
        for method in scored.scores:
            a, b = scored.values(method), again.values(method)
            pair = [np.array([values[n] for n in names]) for values in (a, b)]
            base = blank_row(study, run_id, method, cfg.seed)
            found = agreement(pair[0], pair[1], cfg.seed)
            rows.append(row_of(base, f"{change}/spearman", found))
    groups = {example.id: example.group for example in sets.candidates}
    return scored_student.result(cfg, scored, rows, groups, session, (study, run_id))


METRICS = tuple(f"{change}/spearman" for change in CHANGES)
KIND = Kind(settings=SanityConfig, check=check, run=run, metrics=METRICS)
