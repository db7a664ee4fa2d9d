"""The records that pass between stages: frozen, flat, typed; one record is one JSON line.

Nothing else crosses a stage boundary: no live model, tokenizer, logger or path.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydantic import NonNegativeFloat, NonNegativeInt

Turn = tuple[str, str]
"""Role (``system``, ``user``, ``assistant``) and text."""


def seldom(default: Any) -> Any:
    """A field that most records leave at its default: then it is not in their line or digest."""
    return field(default=default, metadata={"seldom": True})


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One exchange, as every estimator sees it: mostly an instruction and its response."""

    id: str
    instruction: str
    """The last user turn."""
    response: str
    """The answer to it."""
    group: str = ""
    """The seed prompt whose siblings compete in pairs; empty where there is none."""
    earlier: tuple[Turn, ...] = seldom(())
    """Turns before the instruction, oldest first: a system turn, earlier exchanges."""
    finished: bool = seldom(True)
    """The response ends its turn; one that was cut off is learnt without an end of turn."""
    rejected: str = seldom("")
    """Of a reference: a worse answer to the same, for ``scoring.objective = dpo``."""
    weight: float | None = seldom(None)
    """Of a reference: how much it counts, for ``scoring.objective = weighted``."""
    reward: float | None = seldom(None)
    """Of a reference: what its response is worth, for ``scoring.objective = reward``."""

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The whole conversation, oldest first."""
        return (*self.earlier, ("user", self.instruction), ("assistant", self.response))

    @property
    def answers(self) -> tuple[str, ...]:
        """What the assistant says, turn by turn."""
        return tuple(text for role, text in self.turns if role == "assistant")

    @property
    def question(self) -> str:
        """What the response answers: the instruction, or all turns before it under headings."""
        if not self.earlier:
            return self.instruction
        turns = (*self.earlier, ("user", self.instruction))
        return "\n\n".join(f"{role.capitalize()}: {text}" for role, text in turns)

    @property
    def text(self) -> str:
        """All that is said, for methods that count words."""
        return "\n".join(text for _, text in self.turns)


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedPrompt:
    """One instruction that the teacher is shown."""

    id: str
    instruction: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One synthetic pair being judged (the paper's "probing" example).

    DPO trains the teacher on ``teacher_prompt`` and ``raw_completion`` (how it writes
    instructions); the student trains on ``instruction`` and ``response``.
    """

    id: str
    group: str
    """Id of the seed prompt that it was written for."""
    teacher_prompt: str
    """The exact text given to the teacher: chat template and prefill included."""
    raw_completion: str
    """The exact text that the teacher wrote after it, without its end-of-turn token."""
    instruction: str
    response: str
    finished: bool = seldom(True)
    """The response ended by itself and not at a limit of tokens."""
    prompt_ids: tuple[int, ...] = seldom(())
    """``teacher_prompt`` as the teacher read it; empty from an engine that gives no tokens."""
    completion_ids: tuple[int, ...] = seldom(())
    """The tokens that the teacher then sampled, with its end of turn where it wrote one."""
    response_prompt: str = seldom("")
    """The exact text that the response was sampled after, where an instruction has several."""
    raw_response: str = seldom("")
    """The exact text of it."""
    response_prompt_ids: tuple[int, ...] = seldom(())
    response_ids: tuple[int, ...] = seldom(())
    """As ``prompt_ids`` and ``completion_ids``, of the response."""

    def example(self) -> Example:
        """The candidate without what only the teacher needs."""
        return Example(
            id=self.id,
            instruction=self.instruction,
            response=self.response,
            group=self.group,
            finished=self.finished,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """What an estimator says of one candidate; positive = lowers the mean reference loss."""

    id: str
    value: float
    stderr: NonNegativeFloat | None = None
    """Standard error over reference items, same unit as ``value``."""
    per_reference: tuple[float, ...] | None = None
    """One value a reference item, in reference order; their mean is ``value``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """One DPO preference between two completions of the same teacher prompt."""

    id: str
    group: str
    prompt: str
    """The exact teacher prompt that both siblings were sampled from."""
    chosen: str
    rejected: str
    chosen_id: str
    rejected_id: str
    margin: float
    """Score of the chosen minus score of the rejected candidate, in the estimator's unit."""
    prompt_ids: tuple[int, ...] = seldom(())
    """The tokens of ``prompt`` that both were sampled after, where they are known."""
    chosen_ids: tuple[int, ...] = seldom(())
    """The tokens that were sampled, with the end of turn where there is one."""
    rejected_ids: tuple[int, ...] = seldom(())


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelRef:
    """A model on disk, the only way in which one crosses a stage boundary."""

    path: str
    """A folder that ``transformers`` loads; there may be an ``optimizer.pt`` beside the weights."""
    digest: str
    """Digest of what made or fills the folder; the path itself is not part of any identity."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """An evaluation prompt of one turn (AlpacaEval) or more (MT-Bench)."""

    id: str
    category: str
    turns: tuple[str, ...]
    reference: tuple[str, ...] | None = None
    """A good answer a turn, where there is one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a model answered to a question, turn by turn."""

    id: str
    """Id of the question."""
    category: str
    turns: tuple[str, ...]
    responses: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """One number about one evaluation item; kept so that other statistics can be computed later."""

    metric: str
    item: str
    value: float
    category: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultRow:
    """One published number, long format."""

    study: str
    run: str
    estimator: str
    round: NonNegativeInt
    seed: NonNegativeInt
    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    """The 95 % interval; None where there is none, as for a cost."""
    stderr: NonNegativeFloat | None
    n: NonNegativeInt
    unit: str
    student: str = seldom("")
    """Whose number it is, where that is not the student that candidates were scored for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerRow:
    """What one phase of one stage cost, added up over attempts."""

    stage: str
    label: str
    """Which estimator, student or judge the stage ran for; empty where there is only one."""
    phase: str
    """``prepare``, ``score``, ``run`` …"""
    items: NonNegativeInt
    """How many candidates, pairs, prompts … the phase handled."""
    seconds: NonNegativeFloat
    device_seconds: NonNegativeFloat
    """Wall seconds times the number of accelerators in use; 0 on a CPU."""
    peak_bytes: NonNegativeInt
    """Peak resident memory of the process (CPU) or peak allocated device memory (GPU)."""
    forward_passes: NonNegativeFloat
    """Sequences sent forward through a model."""
    backward_passes: NonNegativeFloat
    """Sequences sent backward; one costs about two forwards."""
    tokens: NonNegativeInt
    """Token positions sent forward, padding included."""
    api_calls: NonNegativeInt
    api_prompt_tokens: NonNegativeInt
    api_completion_tokens: NonNegativeInt
    money: NonNegativeFloat
    """US dollars, from the price per token that the judge's settings state."""
    attempts: NonNegativeInt
    """How many processes worked on it (1 unless one was killed)."""
    device: str = ""
    """What its models ran on, ``cpu`` or the GPUs' own names; empty where none ran in this program,
    and in older ledgers."""
