"""A model answers the questions that it is evaluated on, turn by turn."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

from influbench.config import Seed, transport
from influbench.data.records import Answer, ModelRef, Question
from influbench.evaluation.settings import AnswerSettings
from influbench.generation.engines import Engine, opened, purse
from influbench.generation.settings import Sampling
from influbench.models.chat import chat_prompt
from influbench.store import Stage, Work
from influbench.store.budget import Budget
from influbench.store.ledger import Phase


class AnswerConfig(AnswerSettings):
    """The same, with what holds for the whole evaluation."""

    seed: Seed = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: str = transport("auto")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Written:
    """An answer, and how many of its turns did not end by themselves."""

    id: str
    category: str
    turns: tuple[str, ...]
    responses: tuple[str, ...]
    cut: int

    def answer(self) -> Answer:
        return Answer(
            id=self.id, category=self.category, turns=self.turns, responses=self.responses
        )


def answer_questions(
    cfg: AnswerConfig,
    questions: Sequence[Question],
    student: ModelRef,
    *,
    work: Work,
    budget: Budget | None = None,
) -> None:
    """Writes ``answers``: one a question, in order; earlier turns are in a turn's prompt.

    ``work.meta`` counts the turns that are empty and those that were cut at the limit of tokens;
    both are kept.

    ``budget`` is what the command may spend on a server; ``cfg.server_max_dollars`` holds too.

    Raises:
        UserError: a conversation does not fit the model's context, or the cap is reached.
    """
    with ExitStack() as ends:
        own = purse(cfg, budget, work)
        opening = opened(cfg, student, dtype=cfg.dtype, device=cfg.device, work=work, budget=own)
        engine = functools.cache(lambda: ends.enter_context(opening))  # if a chunk is left

        def chunk(part: list[Question]) -> list[_Written]:
            writes = engine()
            with work.meter.phase("answers", items=len(part), models=writes.networks) as phase:
                return _answers(cfg, part, writes, phase)

        size = cfg.questions_per_chunk
        found = work.chunks("answers", questions, chunk, size=size, kind=_Written)
    work.write("answers", [written.answer() for written in found])
    work.meta["empty_answers"] = sum(not text for w in found for text in w.responses)
    work.meta["cut_answers"] = sum(w.cut for w in found)


def said_of(entry_meta: dict[str, int], who: str, questions: Sequence[Question]) -> list[str]:
    """What a reader must know of a model's answers, from the stage's ``meta``; a note each."""
    turns = sum(len(question.turns) for question in questions)
    counts = {
        "empty": entry_meta["empty_answers"],
        "cut at the limit of tokens": entry_meta["cut_answers"],
    }
    return [f"answers of {who}: {n} of {turns} turns {what}" for what, n in counts.items() if n]


def described(cfg: AnswerConfig) -> str:
    """How answers are written, in one line."""
    sampling = cfg.sampling
    said = _degrees(sampling.temperature)
    if cfg.temperatures:
        said += " (" + ", ".join(f"{k} {v:g}" for k, v in sorted(cfg.temperatures.items())) + ")"
    usual = Sampling()
    more = ("top_p", "presence_penalty", "frequency_penalty", "repetition_penalty")
    given = {name: getattr(sampling, name) for name in more}
    said += "".join(f", {k} {v:g}" for k, v in given.items() if v != getattr(usual, k))
    said += f", at most {sampling.max_new_tokens} tokens, {cfg.dtype}"
    by = {"hf": f"batches of {cfg.batch_size}", "server": "by a server", "vllm": "by vLLM"}
    return f"{said}, {by[cfg.engine]}, seed {cfg.seed}"


def _answers(
    cfg: AnswerConfig, questions: Sequence[Question], engine: Engine, phase: Phase
) -> list[_Written]:
    said: dict[str, list[str]] = {question.id: [] for question in questions}
    cut = dict.fromkeys(said, 0)
    temperatures = sorted({_temperature(cfg, question) for question in questions})
    for turn in range(max(len(question.turns) for question in questions)):
        for temperature in temperatures:
            asked = [
                q for q in questions if len(q.turns) > turn and _temperature(cfg, q) == temperature
            ]
            written = engine.complete(
                [_prompt(engine, q, said[q.id]) for q in asked],
                ids=[f"{q.id}:{turn}" for q in asked],
                seed=cfg.seed,
                sampling=cfg.sampling.model_copy(update={"temperature": temperature}),
                batch_size=cfg.batch_size,
                stop=(),
                phase=phase,
            )
            for question, completion in zip(asked, written, strict=True):
                said[question.id].append(completion.text.strip())
                cut[question.id] += not completion.finished
    return [
        _Written(
            id=q.id, category=q.category, turns=q.turns, responses=tuple(said[q.id]), cut=cut[q.id]
        )
        for q in questions
    ]


def _temperature(cfg: AnswerConfig, question: Question) -> float:
    return cfg.temperatures.get(question.category, cfg.sampling.temperature)


def _prompt(engine: Engine, question: Question, said: Sequence[str]) -> str:
    """The conversation so far and the next turn, for the assistant to go on."""
    messages: list[tuple[str, str]] = []
    for asked, answer in zip(question.turns, said, strict=False):
        messages += [("user", asked), ("assistant", answer)]
    messages.append(("user", question.turns[len(said)]))
    return chat_prompt(engine.tokenizer, messages)


def _degrees(value: float) -> str:
    return "greedy" if value == 0 else f"temperature {value:g}"


STAGE = Stage("answer", 3, answer_questions)
