"""A model answers the questions that it is evaluated on, turn by turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from influbench import models
from influbench.config import Config, transport
from influbench.generation.sampling import Sampling, complete
from influbench.models import LoadedModel, chat_prompt
from influbench.records import Answer, ModelRef, Question
from influbench.store import Stage, Work


class AnswerConfig(Config):
    """How a model answers."""

    seed: int = 0
    sampling: Sampling = Sampling(temperature=0.0)
    temperatures: dict[str, float] = Field(
        default_factory=dict, description="by category, where it is not sampling.temperature"
    )
    questions_per_chunk: int = Field(default=32, ge=1, description="between two safe points")
    batch_size: int = Field(default=32, ge=1, description="rows decoded at a time")
    dtype: Literal["float32", "bfloat16"] = "float32"
    chat_template: str | None = None
    device: str = transport("auto")


def answer_questions(
    cfg: AnswerConfig, questions: Sequence[Question], student: ModelRef, *, work: Work
) -> None:
    """Writes ``answers``: one a question, in order; earlier turns are in a turn's prompt.

    ``work.meta`` counts the empty ones, which are kept.

    Raises:
        UserError: a conversation does not fit the model's context.
    """
    loaded: list[LoadedModel] = []

    def chunk(part: list[Question]) -> list[Answer]:
        if not loaded:
            loaded.append(
                models.load(
                    student, dtype=cfg.dtype, device=cfg.device, chat_template=cfg.chat_template
                )
            )
        with work.meter.phase("answers", items=len(part), models=[loaded[0].model]):
            return _answers(cfg, part, loaded[0])

    answers = work.chunks("answers", questions, chunk, size=cfg.questions_per_chunk, kind=Answer)
    work.write("answers", answers)
    work.meta["empty_answers"] = sum(not text for a in answers for text in a.responses)


def _answers(cfg: AnswerConfig, questions: Sequence[Question], loaded: LoadedModel) -> list[Answer]:
    said: dict[str, list[str]] = {question.id: [] for question in questions}
    temperatures = sorted({_temperature(cfg, question) for question in questions})
    for turn in range(max(len(question.turns) for question in questions)):
        for temperature in temperatures:
            asked = [
                q for q in questions if len(q.turns) > turn and _temperature(cfg, q) == temperature
            ]
            written = complete(
                *loaded,
                [_prompt(loaded, q, said[q.id]) for q in asked],
                ids=[f"{q.id}:{turn}" for q in asked],
                seed=cfg.seed,
                sampling=cfg.sampling.model_copy(update={"temperature": temperature}),
                batch_size=cfg.batch_size,
            )
            for question, completion in zip(asked, written, strict=True):
                said[question.id].append(completion.text.strip())
    return [
        Answer(id=q.id, category=q.category, turns=q.turns, responses=tuple(said[q.id]))
        for q in questions
    ]


def _temperature(cfg: AnswerConfig, question: Question) -> float:
    return cfg.temperatures.get(question.category, cfg.sampling.temperature)


def _prompt(loaded: LoadedModel, question: Question, said: Sequence[str]) -> str:
    """The conversation so far and the next turn, for the assistant to go on."""
    messages: list[tuple[str, str]] = []
    for asked, answer in zip(question.turns, said, strict=False):
        messages += [("user", asked), ("assistant", answer)]
    messages.append(("user", question.turns[len(said)]))
    return chat_prompt(loaded.tokenizer, messages)


STAGE = Stage("answer", 2, answer_questions)
