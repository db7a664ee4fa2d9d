"""How long the texts of a run are, in tokens: measured of data that are here, assumed otherwise.

Counts follow from the configuration and the data. What only a run can tell is assumed in the
constants below; ``ATTEMPTS``, ``WRITTEN``, ``PADDING`` and ``JUDGED`` were fitted to one run of
``quickstart`` (SmolLM2-135M, 2026-11-26), so that its own ledger is no independent test of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from influbench import data
from influbench.data import DataConfig
from influbench.data.records import Example
from influbench.generation.settings import GenerationSettings

CHARACTERS = 4.4
"""A token of English text; SmolLM2's on the starter set."""
TEMPLATE = 30
"""Tokens of a chat template around one exchange, its default system turn included."""
TURN = 6
"""Of those, the ones that no two rows share: packed rows have them too."""
TASK = 110
"""Tokens of the request that asks the teacher for an instruction, beside its shots."""
INSTRUCTION, ANSWER = 22, 160
"""Assumed tokens of an instruction and of an answer of data that are not here (Alpaca-GPT4's mean
answer has 677 characters)."""
WRITTEN = 0.5
"""Share of ``max_new_tokens`` that a response fills in the mean, up to ``LONGEST``."""
LONGEST = 200
ATTEMPTS = 1.6
"""Instructions asked for a pair that is kept; SmolLM2-135M: 1.3 to 1.9 (quickstart)."""
SHORT = 0.5
"""Chunks of the teacher's beyond those that would do in the mean: the last one falls short in half
of the cases, and a few rows more take as many decoding steps as many. Chosen beside quickstart's
ledger, which is no independent test of it."""
PADDING = 1.25
"""Positions of a training batch over its tokens: rows are padded to the longest."""
GRADE_READS = 1
"""Times that a local judge reads a request for a mark; after a beginning that marks share (1 and
10) it goes on from the keys and values of that reading (judging.local)."""
JUDGED, GRADED = 200, 200
"""Tokens of a judge's own instructions: the question included where two answers are compared."""
ANSWERED = 400
"""Assumed mean tokens of an answer that no limit cuts."""
PAIRS_A_PROMPT = 2.72
"""All pairs of different sign: 6,792 of 2,500 seed prompts in the paper."""


@dataclass(frozen=True)
class Set:
    """Examples of one kind: how many, and their mean tokens without a template."""

    count: int
    question: float
    answer: float
    longest: float = 0
    """Of its questions: prompts that are read together are padded to it."""

    @property
    def tokens(self) -> float:
        """Of one example."""
        return self.question + self.answer + TURN


@dataclass(frozen=True)
class Lengths:
    """All sizes that no setting says."""

    seeds: Set
    reference: Set
    evaluation: Set
    questions: Set
    written: Set
    """A pair that the teacher writes; ``count`` is not used."""
    assumed: Sequence[str] = field(default=())
    """What was not measured, in words."""


def lengths(cfg: DataConfig, generation: GenerationSettings) -> Lengths:
    """The lengths of a run's data and of what its teacher is expected to write.

    Data of a hub are not fetched for it: their lengths are assumed.
    """
    assumed: list[str] = []

    def measured(name: str, source: str, wanted: int | None, usual: int) -> Set:
        here = source.startswith("starter") or Path(source.partition(":")[0]).exists()
        found = READERS[name](cfg) if here else []
        if not found:
            count = wanted or usual
            assumed.append(f"{name}: {source} is not here; {count} rows of {ANSWER}-token answers")
            return Set(count, INSTRUCTION, ANSWER, 2 * INSTRUCTION)
        size = len(found)
        question = sum(len(q) for q, _ in found) / size / CHARACTERS
        longest = max(len(q) for q, _ in found) / CHARACTERS
        return Set(size, question, sum(len(a) for _, a in found) / size / CHARACTERS, longest)

    instruction = min(INSTRUCTION, generation.instruction.max_new_tokens)
    response = min(WRITTEN * generation.response.max_new_tokens, LONGEST)
    assumed.append(
        f"the teacher writes {instruction:.0f} tokens an instruction, {response:.0f} a response, "
        f"and {ATTEMPTS} instructions for one that is kept"
    )
    return Lengths(
        seeds=measured("seeds", cfg.seeds, cfg.num_seeds, 52002),
        reference=measured("reference", cfg.reference, cfg.num_reference, 256),
        evaluation=measured("evaluation", cfg.evaluation, cfg.num_evaluation, 805),
        questions=measured("questions", cfg.questions, cfg.num_questions, 80),
        written=Set(0, instruction, response),
        assumed=assumed,
    )


def answered(limit: int) -> float:
    """Tokens of an answer that is cut at a limit, in the mean: lengths are exponential."""
    return ANSWERED * (1 - math.exp(-limit / ANSWERED))


def _pairs(rows: Sequence[Example]) -> list[tuple[str, str]]:
    return [(row.instruction, row.response) for row in rows]


READERS = {
    "seeds": lambda cfg: [
        (s.instruction, "") for s in data.load_seed_prompts(cfg) if s.instruction
    ],
    "reference": lambda cfg: _pairs(data.load_reference(cfg)),
    "evaluation": lambda cfg: [
        (" ".join(q.turns), "".join((q.reference or ())[:1])) for q in data.load_evaluation(cfg)
    ],
    "questions": lambda cfg: [(" ".join(q.turns), "") for q in data.load_questions(cfg)],
}
