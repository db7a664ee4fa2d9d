"""The stages of a run with their work, counted from its settings in the loop's order.

What only a run can tell (how long the teacher writes, how often it repeats itself) is assumed in
:mod:`influbench.loop.plan.lengths`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from influbench.estimator import registry
from influbench.estimator.passes import Spent, options_of, spent
from influbench.loop import arms
from influbench.loop.plan import lengths as texts
from influbench.loop.plan.evaluated import evaluated
from influbench.loop.plan.kept import with_kept
from influbench.loop.plan.lengths import JUDGED, TASK, TEMPLATE, Lengths
from influbench.loop.plan.task import Task, updates
from influbench.loop.settings import RunConfig
from influbench.scoring.settings import ORACLE

CHUNK = 8
"""Candidates that are scored in one call."""


def tasks(cfg: RunConfig, known: Lengths) -> list[Task]:
    """Every stage of a run, in order.

    Raises:
        UserError: an unknown estimator or arm.
    """
    stages = _Stages(cfg, known)
    return with_kept(cfg, list(stages.all()), list(stages.scored(ORACLE)))


@dataclass(frozen=True)
class _Stages:
    cfg: RunConfig
    known: Lengths

    def all(self) -> Iterator[Task]:
        cfg = self.cfg
        arm = arms.parse(cfg.scoring.estimator)
        if cfg.stop_after == "end":
            yield from self._written(f"training-{arms.BASELINE}", cfg.sizes.training)
            yield from self._trained(arms.BASELINE, against=False)
            for model in self._students:
                yield from evaluated(cfg, self.known, arms.BASE, model, against=True)
        for number in range(1, cfg.rounds + 1):
            yield from self._written(f"round{number}-warmup", cfg.sizes.warmup)
            yield from self._written(
                f"round{number}-candidates",
                cfg.sizes.candidates,
                cfg.generation.responses_per_instruction,
            )
            yield self._warmed()
            wanted = [*cfg.scoring.compare, *([arm.estimator] if arm.estimator else [])]
            for name in dict.fromkeys(wanted):
                yield from self.scored(name)
            if arm.estimator:
                if arm.pairs:
                    yield from self._taught(arm.name)
                if arm.way != "filter":  # which learns candidates
                    yield from self._written(f"training-{arm.name}", cfg.sizes.training)
                yield from self._trained(arm.name, against=True)

    def _trained(self, name: str, *, against: bool) -> Iterator[Task]:
        cfg, rows = self.cfg, self.cfg.sizes.training
        passes = rows * cfg.sft.epochs
        together = cfg.sft.micro_batch or cfg.sft.batch_size  # None: as many as fit
        for model in self._students:
            yield Task(
                stage="sft",
                label=f"{name} {model}".strip(),
                who="student",
                model=model,
                compute=cfg.sft.compute,
                items=rows,
                passes=3 * passes,
                learn=passes * (self.known.written.tokens + TEMPLATE) * texts.PADDING,
                gradients=math.ceil(rows / min(cfg.sft.batch_size, together)) * cfg.sft.epochs,
                updates=updates(rows, cfg.sft),
                trains=cfg.sft.method,
                again=cfg.sft.gradient_checkpointing,
                saved=1,
            )
            yield from evaluated(cfg, self.known, name, model, against=against)

    @property
    def _students(self) -> list[str]:
        """The probed one, whose name goes without saying, and the others."""
        return ["", *(model.name for model in self.cfg.students)]

    def _written(self, label: str, count: int, responses: int = 1) -> Iterator[Task]:
        cfg, known = self.cfg.generation, self.known
        question = known.written.question
        asked = count / responses * texts.ATTEMPTS
        chunks = math.ceil(asked / (cfg.prompts_per_chunk * cfg.instructions_per_seed))
        kinds = (
            ("instructions", asked, TEMPLATE + TASK + self._shots(), cfg.instruction, question),
            ("responses", float(count), TEMPLATE + question, cfg.response, known.written.answer),
        )
        for phase, rows, prompt, sampling, mean in kinds:
            together = math.ceil(rows / chunks)
            batch = min(cfg.batch_size, together)
            distinct = rows / cfg.instructions_per_seed if phase == "instructions" else rows
            longest = min(sampling.max_new_tokens, 2.5 * mean)
            yield Task(
                stage="generate",
                label=f"{label} {phase}",
                who="teacher",
                compute=self.cfg.teacher.dtype,
                items=rows,
                passes=distinct,
                read=distinct * prompt,
                readings=(chunks + texts.SHORT) * math.ceil(together / batch),
                decoded=rows * mean,
                steps=(chunks + texts.SHORT) * math.ceil(together / batch) * longest,
                rows=batch,
            )

    def _warmed(self) -> Task:
        cfg, rows = self.cfg.warmup, self.cfg.sizes.warmup
        return Task(
            stage="warm_up",
            label="",
            who="student",
            compute=cfg.compute,
            items=rows,
            passes=3 * rows * cfg.epochs,
            learn=rows * cfg.epochs * (self.known.written.tokens + TEMPLATE),
            gradients=math.ceil(rows / cfg.batch_size) * cfg.epochs,
            updates=math.ceil(rows / cfg.batch_size) * cfg.epochs,
            trains="full",
            saved=3,
        )

    def scored(self, name: str) -> Iterator[Task]:
        cfg, count = self.cfg, self.cfg.sizes.candidates
        method = registry.build(name, cfg.scoring.options_of(name))
        facts, values = method.facts, options_of(method, cfg.sizes.warmup)
        sizes = {"M": self.known.reference.count, "W": cfg.sizes.warmup}
        alone = {"M": 0, "W": 0}
        first, each = facts.passes
        prepare, score = spent(first, sizes, values), spent(each, sizes, values)
        own = spent(each, alone, values) or Spent()
        if prepare is None or score is None:
            yield self._method(name, note=f"passes are told as '{first}' and '{each}' only")
            return
        gradients = "gradients" in facts.needs
        references = score.passes - own.passes
        size = self.known.reference.tokens
        packed = references * size
        prepared = prepare.passes * size
        # A pass without gradients packs what rows share; one with them pads and repeats the
        # template, but for the gradient of a whole set, which is planned too dear here.
        learning = gradients and prepare.passes >= 3 * sizes["M"]
        read = (0 if learning else prepared) + count * packed
        candidate = self.known.written.tokens
        learn = prepare.passes / 3 * (size + TEMPLATE) if learning else 0
        # As often as all references are gone through.
        begun, gone = prepare.passes / max(sizes["M"], 1), references / max(sizes["M"], 1)
        readings, singles = (0 if learning else begun) + count * gone, begun / 3 * learning
        if gradients:
            learn += own.passes * count / 3 * (candidate + TEMPLATE)
            singles += own.passes * count / 3
        else:
            read += own.passes * count * candidate
            readings += own.passes * math.ceil(count / CHUNK)
        moves = 1 if "moments" in facts.needs else 0
        asked = score.requests * count
        yield self._method(
            name,
            passes=prepare.passes + score.passes * count,
            read=read,
            readings=readings or asked,
            learn=learn,
            gradients=singles,
            moves=moves * (count + (0 if learning else begun)),
            calls=asked,
            prompt=asked * (JUDGED + candidate),
            replies=asked,
            shared="judge" not in facts.needs,
            note="beside its projections" if name == "trak" else "",
        )
        if name == ORACLE:
            sample, repeats = 3, 2
            share = repeats * (prepared + sample * packed)
            yield self._method(
                name,
                stage="noise_floor",
                passes=repeats * (prepare.passes + sample * score.passes),
                read=share,
                readings=repeats * (begun + sample * gone),
                learn=repeats * sample * (candidate + TEMPLATE),
                gradients=repeats * sample,
                moves=repeats * (sample + begun),
            )

    def _method(self, name: str, *, stage: str = "score", **work: Any) -> Task:
        judged = bool(work.get("calls"))
        compute = self.cfg.judge.dtype if judged else self.cfg.scoring.compute
        return Task(
            stage=stage,
            label=name,
            who="judge" if judged else "student",
            compute=compute,
            items=self.cfg.sizes.candidates,
            **work,
        )

    def _taught(self, name: str) -> Iterator[Task]:
        cfg, known, writing = self.cfg.dpo, self.known, self.cfg.generation
        siblings = writing.instructions_per_seed
        prompt, completion = TEMPLATE + TASK + self._shots(), known.written.question
        if cfg.target == "response":
            siblings = writing.responses_per_instruction
            prompt, completion = TEMPLATE + known.written.question, known.written.answer
        # Dropped siblings leave smaller groups, and more of them.
        per = texts.PAIRS_A_PROMPT if self.cfg.preferences.rule == "sign" else texts.ATTEMPTS
        pairs = math.ceil(self.cfg.sizes.candidates / siblings * per)
        tokens = pairs * (prompt + 2 * completion)  # a pair reads its prompt once
        yield Task(
            stage="dpo",
            label=name,
            who="teacher",
            compute=cfg.compute,
            items=pairs,
            passes=pairs * (2 + 6 * cfg.epochs),
            read=tokens,
            readings=pairs,
            learn=tokens * cfg.epochs,
            gradients=pairs * cfg.epochs,
            updates=updates(pairs, cfg),
            trains=cfg.method,
            again=cfg.gradient_checkpointing,
            saved=1,
        )

    def _shots(self) -> float:
        """Tokens of the instructions shown: seeds, and some of the teacher's own."""
        cfg, known = self.cfg.generation, self.known
        own = min(cfg.num_own_shots, cfg.num_shots)
        seed = min(known.seeds.question, cfg.max_seed_characters / texts.CHARACTERS)
        return (cfg.num_shots - own) * seed + own * known.written.question
