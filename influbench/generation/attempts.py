"""One chunk of the teacher's work: instructions asked for, judged, and responded to."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from pydantic import Field

from influbench.config import Seed, seldom, transport
from influbench.data import records
from influbench.data.records import ModelRef
from influbench.generation.completion import Completion
from influbench.generation.engines import Endpoint, Engine, opened
from influbench.generation.instructions import (
    CLOSE,
    OPEN,
    Novelty,
    cleaned,
    parse,
    reason_to_drop,
    request,
)
from influbench.generation.settings import GenerationSettings, Sampling
from influbench.models.chat import chat_prompt
from influbench.store import Work
from influbench.store.budget import Budget


class GenerationConfig(GenerationSettings):
    """The stage's: with what a run says once."""

    seed: Seed = 0
    num_candidates: int = Field(default=10000, ge=1, description="pairs to write")
    dtype: Literal["float32", "bfloat16"] = "float32"
    chat_template: str | None = None
    device: str = transport("auto")
    endpoint: bool = seldom(False, "the teacher is a name at a chat endpoint, not weights")


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """One prompt for the teacher."""

    id: str
    group: str
    shots: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One instruction asked for, and what became of it."""

    id: str
    group: str
    teacher_prompt: str
    raw_completion: str
    instruction: str
    response: str
    finished: bool
    """The response ended by itself and not at ``max_new_tokens``."""
    dropped: str
    """Why it is no candidate; empty where it is one."""
    prompt_ids: tuple[int, ...]
    """``teacher_prompt`` as the teacher read it."""
    completion_ids: tuple[int, ...]
    """What it then sampled, up to where ``raw_completion`` ends, and its end of turn."""
    number: int = records.seldom(0)
    """Which of the responses to its instruction this one is."""
    response_prompt: str = records.seldom("")
    """What the response was sampled after, where an instruction has several; so are the rest."""
    raw_response: str = records.seldom("")
    response_prompt_ids: tuple[int, ...] = records.seldom(())
    response_ids: tuple[int, ...] = records.seldom(())


@dataclass
class Teacher:
    """The teacher at work on chunks; loaded only if a chunk is left to write."""

    cfg: GenerationConfig
    ref: ModelRef
    work: Work
    ends: ExitStack
    """Ends what was started for it."""
    budget: Budget
    """What may be spent on a server."""

    @cached_property
    def writer(self) -> Engine | Endpoint:
        """What writes."""
        cfg = self.cfg
        if cfg.endpoint:
            return Endpoint(cfg, self.ref.path, budget=self.budget)
        found = opened(
            cfg,
            self.ref,
            dtype=cfg.dtype,
            device=cfg.device,
            chat_template=cfg.chat_template,
            work=self.work,
            budget=self.budget,
        )
        return self.ends.enter_context(found)

    def attempt(self, plans: Sequence[Plan], known: Novelty, room: int) -> list[Attempt]:
        """Instructions for each plan, and responses for the first ``room`` of those that pass.

        Where an instruction has several responses, each of them is an attempt of its own.
        """
        asked = self._ask(plans)
        fresh = Novelty(self.cfg.rouge_l)
        shots = {plan.group: plan.shots for plan in plans}
        judged: list[Attempt] = []
        for attempt in asked:
            reason = attempt.dropped or self._repeats(attempt, known, fresh, shots[attempt.group])
            if not reason:
                fresh.add(attempt.instruction)
                reason = "" if room > 0 else "surplus"
                room -= 1
            judged.append(dataclasses.replace(attempt, dropped=reason))
        return self._respond(judged)

    def _repeats(
        self, attempt: Attempt, known: Novelty, fresh: Novelty, shots: Sequence[str]
    ) -> str:
        shown = Novelty(self.cfg.rouge_l)
        for shot in shots:
            shown.add(shot)
        seen = any(n.known(attempt.instruction) for n in (shown, fresh, known))
        return "duplicate" if seen else ""

    def _ask(self, plans: Sequence[Plan]) -> list[Attempt]:
        cfg = self.cfg
        prefill = OPEN if cfg.prefill else ""
        prompts = [self._rendered(request(plan.shots), prefill) for plan in plans]
        siblings = range(cfg.instructions_per_seed)
        rows = [
            (prompt, f"{plan.id}-{sibling}", plan)
            for prompt, plan in zip(prompts, plans, strict=True)
            for sibling in siblings
        ]
        stop = (CLOSE, "\n") if cfg.one_line else (CLOSE,)
        written = self._complete("instructions", [r[:2] for r in rows], cfg.instruction, stop)
        attempts: list[Attempt] = []
        for (prompt, name, plan), completion in zip(rows, written, strict=True):
            # Small teachers, who need the prefill, end their turn without the closing tag.
            unclosed = cfg.accept_unclosed or (cfg.prefill and completion.finished)
            found = parse(completion.text, prefilled=cfg.prefill, unclosed=unclosed)
            text = None if found is None else cleaned(found, cfg.filters)
            attempts.append(
                Attempt(
                    id=name,
                    group=plan.group,
                    teacher_prompt=prompt,
                    raw_completion=completion.text,
                    instruction=text or "",
                    response="",
                    finished=False,
                    dropped=reason_to_drop(text, cfg.filters),
                    prompt_ids=completion.prompt_ids,
                    completion_ids=completion.ids,
                )
            )
        return attempts

    def _respond(self, attempts: Sequence[Attempt]) -> list[Attempt]:
        several = range(self.cfg.responses_per_instruction)
        asked = [
            (a, self._question(a.instruction), n)
            for a in attempts
            if not a.dropped
            for n in several
        ]
        rows = [(text, f"{a.id}:response{f'-{n}' if n else ''}") for a, text, n in asked]
        written = self._complete("responses", rows, self.cfg.response)
        answers: dict[str, list[Attempt]] = {}
        for (attempt, text, number), completion in zip(asked, written, strict=True):
            one = self._answered(attempt, completion)
            if len(several) > 1:
                one = dataclasses.replace(
                    one,
                    id=f"{attempt.id}-r{number}",
                    number=number,
                    response_prompt=text,
                    raw_response=completion.text,
                    response_prompt_ids=completion.prompt_ids,
                    response_ids=completion.ids,
                )
            answers.setdefault(attempt.id, []).append(one)
        return [one for a in attempts for one in answers.get(a.id, [a])]

    def _question(self, instruction: str) -> str:
        asked = self.cfg.response_request.replace("{instruction}", instruction)
        return self._rendered(asked)

    def _rendered(self, turn: str, prefill: str = "") -> str:
        """A user's turn as the teacher reads it; an endpoint puts it into a template itself."""
        writer = self.writer
        if isinstance(writer, Endpoint):
            return turn
        return chat_prompt(writer.tokenizer, [("user", turn)], prefill)

    def _answered(self, attempt: Attempt, completion: Completion) -> Attempt:
        response = completion.text.strip()
        reason = "" if response else "empty_response"
        if not completion.finished and self.cfg.unfinished == "drop":
            reason = "unfinished_response"
        return dataclasses.replace(
            attempt, response=response, finished=completion.finished, dropped=reason
        )

    def _complete(
        self,
        phase: str,
        rows: Sequence[tuple[str, str]],
        sampling: Sampling,
        stop: Sequence[str] = (),
    ) -> list[Completion]:
        engine = self.writer
        with self.work.meter.phase(phase, items=len(rows), models=engine.networks) as opened:
            return engine.complete(
                [prompt for prompt, _ in rows],
                ids=[name for _, name in rows],
                seed=self.cfg.seed,
                sampling=sampling,
                batch_size=self.cfg.batch_size,
                stop=stop,
                phase=opened,
            )
