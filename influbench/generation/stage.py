"""The teacher writes candidates: the stage that every set of instruction-response pairs comes from.

Sequential by nature: a prompt may show instructions that the teacher wrote in earlier chunks, and a
new one is compared with all before it. The state is rebuilt from the chunks' records, so that a
killed stage goes on to the same bytes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import random
from collections import Counter
from collections.abc import Sequence

from influbench.data.records import Candidate, ModelRef, SeedPrompt
from influbench.errors import UserError
from influbench.files import digest
from influbench.generation.attempts import Attempt, GenerationConfig, Plan, Teacher
from influbench.generation.engines import purse
from influbench.generation.instructions import Novelty
from influbench.store import Stage, Work
from influbench.store.budget import Budget
from influbench.terminal.progress import SilentProgress

__all__ = ["STAGE", "GenerationConfig", "write_candidates"]


def write_candidates(
    cfg: GenerationConfig,
    seed_prompts: Sequence[SeedPrompt],
    teacher: ModelRef,
    salt: str,
    *,
    work: Work,
    budget: Budget | None = None,
) -> None:
    """Writes ``candidates``: ``cfg.num_candidates`` pairs, in the order written.

    Each prompt belongs to one seed prompt, in turn, and shows it among others drawn at random.
    ``teacher_prompt`` ends with the opening tag if ``cfg.prefill``; ``raw_completion`` ends where
    sampling stopped: with the closing tag, or with the turn (or line) where a prefilled teacher
    wrote none. ``work.meta`` counts attempts and drops by reason.

    Args:
        cfg: settings.
        seed_prompts: what prompts are made of.
        teacher: the model.
        salt: begins every id, so that two calls in one run share neither ids nor random numbers.
        work: where to write.
        budget: what the command may spend; ``cfg.server_max_dollars`` holds for it too.

    Raises:
        UserError: too few seed prompts, too few of the teacher's attempts pass, or the cap is
            reached.
    """
    seeds = [s for s in seed_prompts if len(s.instruction) <= cfg.max_seed_characters]
    if len(seeds) < cfg.num_shots:
        raise UserError(
            f"expected at least num_shots = {cfg.num_shots} seed prompts of at most "
            f"{cfg.max_seed_characters} characters, got {len(seeds)} of {len(seed_prompts)}: give "
            "more, or lower generation.num_shots"
        )
    with contextlib.ExitStack() as ends:
        writer = Teacher(cfg, teacher, work, ends, purse(cfg, budget, work))
        attempts = _written(cfg, seeds, writer, salt, work)
    # The last instruction may have more responses than are wanted.
    accepted = [a for a in attempts if not a.dropped][: cfg.num_candidates]
    work.write("candidates", [_candidate(a) for a in accepted])
    work.meta.update(
        attempts=_asked(attempts),
        accepted=len(accepted),
        dropped=_reasons(attempts),
        unfinished_responses=sum(not a.finished for a in attempts if a.response),
        seed_prompts_too_long=len(seed_prompts) - len(seeds),
    )


def _written(
    cfg: GenerationConfig, seeds: Sequence[SeedPrompt], writer: Teacher, salt: str, work: Work
) -> list[Attempt]:
    """All attempts, chunk after chunk, until enough have passed."""
    # The bar counts accepted pairs; bars of single chunks would say nothing.
    silent = dataclasses.replace(work, progress=SilentProgress())
    attempts: list[Attempt] = []
    accepted: list[Attempt] = []
    known = Novelty(cfg.rouge_l)
    prompts = 0
    with work.progress.task(f"{work.title}: pairs", cfg.num_candidates) as advance:
        while len(accepted) < cfg.num_candidates:
            left = cfg.num_candidates - len(accepted)
            room = math.ceil(left / cfg.responses_per_instruction)
            numbers = range(prompts, prompts + _next_prompts(cfg, left, attempts))
            plans = [_plan(cfg, seeds, accepted, salt, n) for n in numbers]
            made = silent.chunks(
                f"attempts-{prompts:06d}",
                plans,
                lambda part, room=room: writer.attempt(part, known, room),
                size=len(plans),
                kind=Attempt,
            )
            passed = [a for a in made if not a.dropped]
            for instruction in dict.fromkeys(a.instruction for a in passed):
                known.add(instruction)
            attempts += made
            accepted += passed
            prompts += len(plans)
            advance(len(passed))
    return attempts


def _next_prompts(cfg: GenerationConfig, room: int, attempts: Sequence[Attempt]) -> int:
    """Prompts in the next chunk: no more than are needed if as many pass as so far."""
    bound = cfg.attempts_per_candidate * cfg.num_candidates
    passed, asked = sum(not a.dropped for a in attempts), _asked(attempts)
    if asked >= bound:
        raise UserError(
            f"expected {cfg.num_candidates} pairs from the teacher, got {passed} in "
            f"{asked} attempts (dropped: {_reasons(attempts)}): set generation.prefill, "
            "give more seed prompts, or raise generation.attempts_per_candidate"
        )
    share = max(passed, 1) / asked if asked else cfg.responses_per_instruction
    wanted = min(room / share, bound - asked)
    return min(cfg.prompts_per_chunk, math.ceil(wanted / cfg.instructions_per_seed))


def _asked(attempts: Sequence[Attempt]) -> int:
    """Instructions that were asked for; one may have several responses."""
    return sum(not a.number for a in attempts)


def _reasons(attempts: Sequence[Attempt]) -> dict[str, int]:
    return dict(sorted(Counter(a.dropped for a in attempts if a.dropped).items()))


def _plan(
    cfg: GenerationConfig,
    seeds: Sequence[SeedPrompt],
    accepted: Sequence[Attempt],
    salt: str,
    number: int,
) -> Plan:
    turn, place = divmod(number, len(seeds))
    name = f"{salt}-{number:05d}"
    # Python's generator: the same draws on every platform, from (seed, id).
    chance = random.Random(digest(f"{cfg.seed}:{name}"))
    accepted = [a for a in accepted if not a.number]  # each instruction once
    own = min(cfg.num_own_shots, cfg.num_shots - 1) if len(accepted) >= cfg.num_own_shots else 0
    others = [s.instruction for i, s in enumerate(seeds) if i != place]
    shots = [
        seeds[place].instruction,
        *chance.sample(others, cfg.num_shots - own - 1),
        *(a.instruction for a in chance.sample(accepted, own)),
    ]
    chance.shuffle(shots)
    return Plan(id=name, group=f"{seeds[place].id}#{turn}", shots=tuple(shots))


def _candidate(attempt: Attempt) -> Candidate:
    return Candidate(
        id=attempt.id,
        group=attempt.group,
        teacher_prompt=attempt.teacher_prompt,
        raw_completion=attempt.raw_completion,
        instruction=attempt.instruction,
        response=attempt.response,
        finished=attempt.finished,
        prompt_ids=attempt.prompt_ids,
        completion_ids=attempt.completion_ids,
        response_prompt=attempt.response_prompt,
        raw_response=attempt.raw_response,
        response_prompt_ids=attempt.response_prompt_ids,
        response_ids=attempt.response_ids,
    )


STAGE = Stage("generate", 4, write_candidates)
