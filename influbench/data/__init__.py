"""Seed prompts, reference set, evaluation set and chat questions: where each comes from."""

from __future__ import annotations

from influbench.data.examples import load_examples
from influbench.data.sets import (
    ALIASES,
    SPACED,
    STARTER,
    DataConfig,
    T,
    check_overlap,
    load_evaluation,
    load_questions,
    load_reference,
    load_seed_prompts,
    load_starter,
    normalised_hash,
)

__all__ = [
    "ALIASES",
    "SPACED",
    "STARTER",
    "DataConfig",
    "T",
    "check_overlap",
    "load_evaluation",
    "load_examples",
    "load_questions",
    "load_reference",
    "load_seed_prompts",
    "load_starter",
    "normalised_hash",
]
