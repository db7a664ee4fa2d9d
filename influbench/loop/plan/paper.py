"""The paper's own time table beside ours: Montessori-Instruct, arXiv 2410.14208, table 7."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from influbench.loop.plan.prices import Priced

SHARED = {"instruction": 0.372, "response": 0.031, "pair": 0.362}
TIMES = {
    "meta-llama/Meta-Llama-3-8B": {**SHARED, "influence": 13.403, "training": 0.083},
    "TinyLlama/TinyLlama_v1.1": {**SHARED, "influence": 3.533, "training": 0.019},
}
"""Seconds an item on 8 H100, by student.

The parts of the 8B influence sum to 11.403, not to 13.403. ``training`` is what is left of the
table's seconds a row of Self-Instruct (0.486 and 0.422) without its instruction and its response.
"""


@dataclass(frozen=True)
class Beside:
    """One row: seconds an item."""

    what: str
    paper: float
    ours: float
    why: str


WHY = {
    "instruction": "theirs starts a process pool and compares with all accepted ones an item; ours "
    "decodes with Hugging Face on one device (generation.engine=vllm is the faster way)",
    "response": "theirs is vLLM on eight devices; ours Hugging Face on one",
    "influence": "theirs loads the checkpoint again for each (2.69 of 13.40 s at 8B, 1.08 of 3.53 "
    "at 1.1B), takes one step on 8 GPUs and pads the references to batches of 8; ours keeps one "
    "student a device and shares the candidates",
    "training": "theirs pads to 1024 tokens on 8 GPUs; ours counts the rows' own tokens, fp32 "
    "weights and bf16 products",
    "pair": "theirs splits the model by layers over devices that wait for each other; the "
    "reference model is a second copy where ours reads it once beforehand",
}


def beside(found: Sequence[Priced], student: str) -> list[Beside]:
    """Our seconds an item beside the paper's, for the students that it trained."""
    times = TIMES.get(student)
    if times is None:
        return []
    rows = {
        "instruction": _each(found, "generate", "round1-candidates instructions"),
        "response": _each(found, "generate", "round1-candidates responses"),
        "influence": _each(found, "score", "exact"),
        "pair": _each(found, "dpo", "exact"),
        "training": _each(found, "sft", "exact"),
    }
    return [Beside(w, times[w], ours, WHY[w]) for w, ours in rows.items() if ours is not None]


def _each(found: Sequence[Priced], stage: str, label: str) -> float | None:
    for priced in found:
        if (priced.task.stage, priced.task.label) == (stage, label):
            return priced.seconds / priced.task.items
    return None
