"""Seed prompts, reference set, evaluation set and chat questions: where each comes from.

A source is ``starter`` (the small set that is shipped), ``starter_short`` (shipped too: pairs of
one line), a local file or folder, or a data set of the Hugging Face hub. ``SOURCE:firstN`` takes
its first N rows only.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import string
from collections.abc import Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field

from influbench.config import Config, transport
from influbench.data import doubled
from influbench.data.beside import ASKED, history, refuse_unseen
from influbench.data.conversations import WHOLE, openings
from influbench.data.examples import (
    claim_id,
    examples,
    instruction,
    load_examples,
    row_id,
)
from influbench.data.questions import category, published_answers, questions
from influbench.data.records import Example, Question, SeedPrompt
from influbench.data.rows import Row, read_rows
from influbench.errors import UserError
from influbench.files import digest

__all__ = [
    "DataConfig",
    "check_overlap",
    "load_evaluation",
    "load_examples",
    "load_questions",
    "load_reference",
    "load_seed_prompts",
    "load_starter",
    "normalised_hash",
]

T = TypeVar("T")

STARTER = Path(__file__).parent / "starter"
SPACED = "vicgalle/alpaca-gpt4"
"""The paper's seed prompts, in which its code puts a space, not a blank line, before the input."""
ALIASES = {
    "alpaca_eval": "tatsu-lab/alpaca_eval",
    "alpaca_gpt4": SPACED,
    "mt_bench": "HuggingFaceH4/mt_bench_prompts",
    "starter_short": str(STARTER / "short_pairs.jsonl"),
}
_FIRST = re.compile(r"(.+):first(\d+)")


class DataConfig(Config):
    """Where the data of a run comes from; None = all that a source has."""

    seeds: str = Field(default="starter", description="instructions that the teacher is shown")
    reference: str = Field(default="starter", description="held-out pairs that define what helps")
    evaluation: str = Field(default="starter", description="one-turn prompts, with an answer each")
    questions: str = Field(default="starter", description="questions of one turn or more")
    question_answers: str | None = Field(
        default=None, description="FastChat's reference_answer file, in place of the questions' own"
    )
    num_seeds: int | None = Field(default=None, ge=1)
    num_reference: int | None = Field(default=None, ge=1)
    num_evaluation: int | None = Field(default=None, ge=1)
    num_questions: int | None = Field(default=None, ge=1)
    leaky: bool = transport(False, "let reference and evaluation prompts overlap; rows say so")


def load_seed_prompts(cfg: DataConfig) -> list[SeedPrompt]:
    """The instructions that the teacher is shown; responses are not needed, of a chat the opening.

    System prompts and tools are no part of what a user asks: seeds go without.

    Raises:
        UserError: the source cannot be read, is malformed or has too few rows.
    """
    rows = _source(cfg.seeds, "seed")
    separator = " " if _name(cfg.seeds) == SPACED else "\n\n"
    seen: dict[str, str] = {}
    prompts: list[SeedPrompt] = []
    for row in rows:
        prompt = SeedPrompt(id=row_id(row, "id"), instruction=_asked(row, separator))
        claim_id(prompt.id, row, seen)
        prompts.append(prompt)
    return _balanced(prompts, rows, cfg.num_seeds, "num_seeds")


def _asked(row: Row, separator: str) -> str:
    """What the user of a seed's row asks first."""
    refuse_unseen(row, *ASKED)
    told = row.fields.get("instruction") is not None or row.fields.get("question") is not None
    if not told and (texts := openings(row, "prompt", *WHOLE)):
        asked = doubled.same_asked(row, texts)
    else:
        asked = doubled.asked_alike(row, instruction(row, separator=separator))
    past = history(row)
    return past[0][1] if past else asked


def load_reference(cfg: DataConfig) -> list[Example]:
    """The reference set.

    Raises:
        UserError: as for seed prompts; or it is made of AlpacaEval's test prompts (the released
            code's default is ``alpaca_eval:first256``) and ``leaky`` is not set.
    """
    if _name(cfg.reference) == ALIASES["alpaca_eval"] and not cfg.leaky:
        raise UserError(
            f"data.reference = '{cfg.reference}': expected pairs that nothing is evaluated on, got "
            "AlpacaEval's test prompts: give another reference, or set data.leaky = true to "
            "reproduce the released code (every row is then marked leaky)"
        )
    rows = _source(cfg.reference, "reference")
    return _balanced(examples(rows, reference=True), rows, cfg.num_reference, "num_reference")


def load_starter(split: str) -> list[Example]:
    """The shipped pairs of one split: ``seed``, ``reference`` or ``evaluation``."""
    return examples(_source("starter", split))


def load_evaluation(cfg: DataConfig) -> list[Question]:
    """The evaluation set: questions of one turn, with a reference answer where the source has one.

    Raises:
        UserError: as for seed prompts; or a question has more than one turn.
    """
    rows = _source(cfg.evaluation, "evaluation")
    found = questions(rows)
    for row, question in zip(rows, found, strict=True):
        if len(question.turns) != 1:
            raise row.refuse(
                "an evaluation prompt of one turn",
                f"{len(question.turns)} turns",
                "give such questions as data.questions",
            )
    return _balanced(found, rows, cfg.num_evaluation, "num_evaluation")


def load_questions(cfg: DataConfig) -> list[Question]:
    """The questions of one or more turns (MT-Bench).

    Raises:
        UserError: as for seed prompts.
    """
    rows = _starter("questions.jsonl") if cfg.questions == "starter" else _read(cfg.questions)
    found = questions(rows)
    if cfg.question_answers is not None:
        answers = published_answers(_read(cfg.question_answers))
        found = [dataclasses.replace(q, reference=answers.get(q.id)) for q in found]
    return _balanced(found, rows, cfg.num_questions, "num_questions")


def normalised_hash(prompt: str) -> str:
    """Digest of a prompt without case, spacing, and punctuation at its ends."""
    text = " ".join(prompt.lower().split())
    return digest(text.strip(string.punctuation + string.whitespace))


def check_overlap(reference: Sequence[Example], evaluation: Sequence[Question], leaky: bool) -> int:
    """How many reference prompts are evaluation prompts too.

    Raises:
        UserError: some are, and ``leaky`` is not set.
    """
    asked = {normalised_hash(question.turns[0]) for question in evaluation}
    shared = [e for e in reference if normalised_hash(e.instruction) in asked]
    if shared and not leaky:
        raise UserError(
            f"expected no reference prompt in the evaluation set, got {len(shared)} of "
            f"{len(reference)} (for example '{shared[0].id}': {shared[0].instruction[:60]!r}): "
            "change data.reference or data.evaluation, or set data.leaky = true (rows then say so)"
        )
    return len(shared)


def _source(source: str, split: str) -> list[Row]:
    """Rows of a source; of the starter pairs, those of ``split``."""
    if source != "starter":
        return _read(source)
    rows = _starter("pairs.jsonl")
    return [row for row in rows if row.fields["split"] == split]


@functools.cache  # the package's own files: read once, however many runs a study has
def _starter(name: str) -> tuple[Row, ...]:
    return tuple(read_rows(STARTER / name))


def _read(source: str) -> list[Row]:
    found = _FIRST.fullmatch(source)
    return read_rows(_name(source), int(found[2]) if found else None)


def _name(source: str) -> str:
    """The path or hub name in a source."""
    found = _FIRST.fullmatch(source)
    name = found[1] if found else source
    return ALIASES.get(name, name)


def _balanced(items: Sequence[T], rows: Sequence[Row], count: int | None, name: str) -> list[T]:
    """The first ``count`` items, one of each category in turn; in order where there are none.

    Taking turns even when all are wanted means that whoever stops early has seen every category.
    """
    if count is not None and count > len(items):
        raise UserError(
            f"data.{name} = {count}: expected at most the {len(items)} rows that the source has"
        )
    by_category: dict[str, list[T]] = {}
    for item, row in zip(items, rows, strict=True):
        by_category.setdefault(category(row), []).append(item)
    missing = object()
    turns: Any = chain.from_iterable(zip_longest(*by_category.values(), fillvalue=missing))
    return [item for item in turns if item is not missing][:count]
