"""The loop on one screen: generate, warm up, score, pair, teach, train, evaluate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from influbench import generation, scoring, training
from influbench.data.records import (
    Candidate,
    Example,
    LedgerRow,
    ModelRef,
    Pair,
    Score,
    SeedPrompt,
)
from influbench.evaluation.evaluator import Evaluated
from influbench.evaluation.suite import Baseline
from influbench.generation.attempts import GenerationConfig
from influbench.loop import arms, preferences
from influbench.loop.arms import BASE, BASELINE, Arm
from influbench.loop.sets import Sets, check
from influbench.loop.settings import RunConfig
from influbench.models.templates import templated
from influbench.scoring import MethodConfig, Scored
from influbench.store.session import Session
from influbench.training import SFTConfig, WarmupConfig, dpo
from influbench.training.dpo import DPOStageConfig


@dataclass(frozen=True, kw_only=True)
class Round:
    """What one turn of the loop left."""

    number: int
    candidates: Sequence[Candidate]
    scores: Mapping[str, Sequence[Score]]
    """By estimator: the one that teaches and those compared."""
    facts: Mapping[str, Mapping[str, float]]
    """What each estimator reports of itself."""
    pairs: Sequence[Pair] = ()
    teaching: Mapping[str, Any] = field(default_factory=dict)
    """What DPO reports: losses, held-out accuracy."""
    marks: Evaluated = field(default_factory=Evaluated)
    """The trained student's."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """All that a run left; ``results`` writes it."""

    config: RunConfig
    methods: Mapping[str, Mapping[str, Any]]
    """All options of every method that scored, its defaults spelt out."""
    rounds: Sequence[Round]
    baseline: Evaluated
    """The student of the untaught teacher."""
    base: Evaluated
    """The student before any training."""
    trained: Mapping[str, Mapping[str, Any]]
    """What each student's training reports, by arm: examples, response tokens, steps, losses."""
    ledger: Sequence[LedgerRow]
    notes: Sequence[str]


def run(cfg: RunConfig, session: Session) -> Run:
    """Runs the loop; a stage whose result the store has is not run again.

    In every round the student is warmed up from the base student on what that round's teacher
    writes, and the final student is trained from the base student (the paper; its released code has
    one round).

    Raises:
        UserError: see :func:`check`; or a stage cannot go on.
    """
    loop = Loop(cfg, session, check(cfg))
    if loop.sets.overlap:
        session.note(f"leaky: {loop.sets.overlap} reference examples are also evaluation prompts")
    arm = arms.parse(cfg.scoring.estimator)
    teacher, student, trained = (
        templated(model, session.run)
        for model in (cfg.teacher, cfg.student, cfg.trained or cfg.student)
    )
    if teacher.digest == trained.digest:
        session.note(
            f"teacher and student are the same model ({cfg.teacher.name}): what it writes has "
            "nothing to teach it; take a student that the teacher is ahead of"
        )
    untaught, against, base = Evaluated(), None, Evaluated()
    if cfg.stop_after == "end":
        rows = loop.training_set(BASELINE, teacher, loop.sets.seeds)
        model, untaught = loop.train_and_evaluate(BASELINE, rows, trained)
        against = Baseline(name=BASELINE, model=model)
        base = loop.evaluate(BASE, trained, against)
    rounds: list[Round] = []
    methods: dict[str, Mapping[str, Any]] = {}
    seeds = loop.sets.seeds
    for number in range(1, cfg.rounds + 1):
        writes = partial(loop.generate, teacher, seeds=seeds)
        warmup = writes(cfg.sizes.warmup, f"round{number}-warmup")
        candidates = writes(cfg.sizes.candidates, f"round{number}-candidates")
        warmed = loop.warm_up(student, warmup)
        wanted = [*cfg.scoring.compare, *([arm.estimator] if arm.estimator else [])]
        scored = {
            method: loop.score(method, candidates, warmup, warmed)
            for method in dict.fromkeys(wanted)
        }
        methods |= {m: scoring.resolved_options(found.method) for m, found in scored.items()}
        turn = Round(
            number=number,
            candidates=candidates,
            scores={method: found.scores for method, found in scored.items()},
            facts={method: found.facts for method, found in scored.items()},
        )
        if arm.estimator:
            scores, floor = turn.scores[arm.estimator], scored[arm.estimator].noise_floor
            if arm.pairs:
                turn, teacher = loop.teach(turn, teacher, arm, scores, floor)
            elif arm.way == "bootstrap":
                seeds = arms.as_seeds(arms.best(candidates, scores, loop.shots_wanted))
            if arm.way == "filter":
                rows = arms.best(candidates, scores, cfg.sizes.training)
            else:
                rows = loop.training_set(arm.name, teacher, seeds)
            _, marks = loop.train_and_evaluate(arm.name, rows, trained, against)
            turn = replace(turn, marks=marks)
        rounds.append(turn)
    return Run(
        config=cfg,
        methods=methods,
        rounds=rounds,
        baseline=untaught,
        base=base,
        trained=loop.trained,
        ledger=session.ledger,
        notes=session.notes,
    )


@dataclass
class Loop:
    """The stages of one run."""

    cfg: RunConfig
    session: Session
    sets: Sets
    trained: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """What the last training of each arm's student reports."""

    @property
    def _everywhere(self) -> dict[str, Any]:
        """What holds for all stages of the run."""
        return {"seed": self.cfg.seed, "device": self.cfg.device}

    def generate(
        self,
        teacher: ModelRef,
        count: int,
        salt: str,
        label: str = "",
        *,
        seeds: Sequence[SeedPrompt] | None = None,
    ) -> list[Candidate]:
        """``count`` pairs that the teacher writes for seed prompts, the run's unless given.

        One ``salt`` is one stream of chance: two teachers given the same one get the same prompts.
        """
        cfg = self.cfg.generation.into(
            GenerationConfig,
            num_candidates=count,
            dtype=self.cfg.teacher.dtype,
            **self._everywhere,
        )
        inputs = self.sets.seeds if seeds is None else seeds, teacher, salt
        entry = self.session.run(generation.STAGE, cfg, *inputs, label=label or salt)
        if unfinished := entry.meta["unfinished_responses"]:
            done = "dropped" if cfg.unfinished == "drop" else "kept, without an end of turn"
            self.session.note(
                f"{label or salt}: {unfinished} responses did not end within "
                f"{cfg.response.max_new_tokens} tokens ({count} pairs wanted): {done}"
            )
        return entry.records("candidates", Candidate)

    def warm_up(self, student: ModelRef, rows: Sequence[Candidate]) -> ModelRef:
        """The student with its optimizer state."""
        cfg = self.cfg.warmup.into(WarmupConfig, **self._everywhere)
        return self.session.run(training.WARM_UP, cfg, _examples(rows), student).model("student")

    def score(
        self,
        name: str,
        candidates: Sequence[Candidate],
        warmup: Sequence[Candidate],
        student: ModelRef,
    ) -> Scored:
        """What one estimator says of the candidates."""
        own = self.cfg.scoring
        cfg = own.knobs().into(
            MethodConfig,
            estimator=name,
            options=own.options if name == own.estimator else {},
            dtype=self.cfg.student.dtype,
            judge=self.cfg.placed_judge(),
            **self._everywhere,
        )
        inputs = _examples(candidates), self.sets.reference, _examples(warmup), student
        return scoring.score_candidates(self.session, cfg, *inputs)

    def teach(
        self,
        turn: Round,
        teacher: ModelRef,
        arm: Arm,
        scores: Sequence[Score],
        noise_floor: float | None,
    ) -> tuple[Round, ModelRef]:
        """The round with its pairs and what DPO on them reports, and the taught teacher."""
        pairs = preferences.build_pairs(self.cfg.preferences, turn.candidates, scores, noise_floor)
        if arm.way == "flipped":
            pairs = arms.flipped(pairs)
        cfg = self.cfg.dpo.into(DPOStageConfig, **self._everywhere)
        taught = self.session.run(dpo.DPO, cfg, pairs, teacher, label=arm.name)
        return replace(turn, pairs=pairs, teaching=taught.meta), taught.model("teacher")

    @property
    def shots_wanted(self) -> int:
        """How many candidates become shots: a quarter of them, as many as a prompt shows at least.

        A group of siblings has four candidates in the paper, of which one is the best.
        """
        return max(self.cfg.generation.num_shots, self.cfg.sizes.candidates // 4)

    def training_set(
        self, name: str, teacher: ModelRef, seeds: Sequence[SeedPrompt]
    ) -> list[Candidate]:
        """What the final student learns; the arms of a seed share the stream of chance."""
        return self.generate(
            teacher, self.cfg.sizes.training, "training", f"training-{name}", seeds=seeds
        )

    def train_and_evaluate(
        self,
        name: str,
        rows: Sequence[Candidate],
        student: ModelRef,
        baseline: Baseline | None = None,
    ) -> tuple[ModelRef, Evaluated]:
        """The student trained on ``rows`` from the base student, and its marks."""
        cfg = self.cfg.sft.into(SFTConfig, **self._everywhere)
        entry = self.session.run(training.SFT, cfg, _examples(rows), student, label=name)
        trained, self.trained[name] = entry.model("student"), entry.meta
        if (wanted := cfg.response_tokens) and entry.meta["examples"] == len(rows):
            self.session.note(
                f"{name}: learnt {entry.meta['response_tokens']} response tokens, all there were, "
                f"of the {wanted} that every arm should learn: raise sizes.training"
            )
        return trained, self.evaluate(name, trained, baseline)

    def evaluate(self, name: str, student: ModelRef, baseline: Baseline | None) -> Evaluated:
        """A student's marks."""
        ready = self.sets.evaluator
        assert ready is not None, "a run that ends at its scores trains and evaluates nothing"
        marks = ready.evaluate(self.session, student, baseline=baseline, label=name)
        for note in marks.notes:
            self.session.note(note)
        return marks


def _examples(rows: Sequence[Candidate]) -> list[Example]:
    return [row.example() for row in rows]
