"""The loop on one screen: generate, warm up, score, pair, teach, train, evaluate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from influbench import data, generation, preferences, registry, scoring, training
from influbench.errors import UserError
from influbench.evaluation import evaluator
from influbench.evaluation.evaluator import Evaluated, Evaluator
from influbench.evaluation.suite import Baseline, Material
from influbench.generation.attempts import GenerationConfig
from influbench.loop.settings import BASELINE, RunConfig
from influbench.models.templates import check_template, templated
from influbench.records import (
    Candidate,
    Example,
    LedgerRow,
    ModelRef,
    Pair,
    Score,
    SeedPrompt,
)
from influbench.scoring import MethodConfig, Scored
from influbench.session import Session
from influbench.store import Entry
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
    ledger: Sequence[LedgerRow]
    notes: Sequence[str]


@dataclass(frozen=True)
class Sets:
    """The data of a run."""

    seeds: Sequence[SeedPrompt]
    reference: Sequence[Example]
    evaluator: Evaluator | None
    """None where the run ends at its scores."""
    overlap: int
    """Reference examples that are also evaluation prompts: 0 unless the run is leaky by name."""


def check(cfg: RunConfig) -> Sets:
    """Refuses what cannot work before the first second of compute; returns the run's data.

    Raises:
        UserError: an unknown estimator or option, a rule that the estimator's scale does not allow,
            bad data, or reference and evaluation sets that overlap.
    """
    for name in cfg.scoring.compare:
        registry.build(name)
    if cfg.stop_after == "scores" and (cfg.rounds > 1 or cfg.scoring.estimator != BASELINE):
        raise UserError(
            f"stop_after = scores: expected scoring.estimator = '{BASELINE}' and one round, since "
            f"no teacher is taught, got '{cfg.scoring.estimator}' and {cfg.rounds}: name the "
            "methods in scoring.compare"
        )
    for model in (cfg.teacher, cfg.student):
        check_template(model)
    if cfg.scoring.estimator != BASELINE:
        method = registry.build(cfg.scoring.estimator, cfg.scoring.options)
        preferences.check(cfg.preferences.rule, method.facts.scale, method.facts.stderr)
    reference = data.load_reference(cfg.data)
    evaluation = data.load_evaluation(cfg.data)
    if len(reference) < 2:
        raise UserError(
            f"the reference set has {len(reference)} example: expected 2 or more, since every "
            "score carries a standard error over them; raise data.num_reference"
        )
    material = Material(
        source=cfg.data.evaluation,
        prompts=evaluation,
        questions=data.load_questions(cfg.data),
        reference=reference,
    )
    told = cfg.evaluation, material, cfg.placed_judge()
    ready = None
    if cfg.stop_after == "end":
        ready = evaluator.prepare(*told, seed=cfg.seed, device=cfg.device)
    return Sets(
        seeds=data.load_seed_prompts(cfg.data),
        reference=reference,
        evaluator=ready,
        overlap=data.check_overlap(reference, evaluation, leaky=cfg.data.leaky),
    )


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
    name = cfg.scoring.estimator
    teacher, student = (templated(model, session.run) for model in (cfg.teacher, cfg.student))
    untaught, against = Evaluated(), None
    if cfg.stop_after == "end":
        model, untaught = loop.train_and_evaluate(BASELINE, teacher, student)
        against = Baseline(name=BASELINE, model=model)
    rounds: list[Round] = []
    methods: dict[str, Mapping[str, Any]] = {}
    for number in range(1, cfg.rounds + 1):
        warmup = loop.generate(teacher, cfg.sizes.warmup, f"round{number}-warmup")
        candidates = loop.generate(teacher, cfg.sizes.candidates, f"round{number}-candidates")
        warmed = loop.warm_up(student, warmup)
        scored = {
            method: loop.score(method, candidates, warmup, warmed)
            for method in dict.fromkeys([*cfg.scoring.compare, name])
            if method != BASELINE
        }
        methods |= {m: scoring.resolved_options(found.method) for m, found in scored.items()}
        turn = Round(
            number=number,
            candidates=candidates,
            scores={method: found.scores for method, found in scored.items()},
            facts={method: found.facts for method, found in scored.items()},
        )
        if name != BASELINE:
            pairs = preferences.build_pairs(
                cfg.preferences, candidates, turn.scores[name], scored[name].noise_floor
            )
            taught = loop.teach(teacher, pairs)
            teacher = taught.model("teacher")
            _, marks = loop.train_and_evaluate(name, teacher, student, against)
            turn = replace(turn, pairs=pairs, teaching=taught.meta, marks=marks)
        rounds.append(turn)
    return Run(
        config=cfg,
        methods=methods,
        rounds=rounds,
        baseline=untaught,
        ledger=session.ledger,
        notes=session.notes,
    )


@dataclass
class Loop:
    """The stages of one run."""

    cfg: RunConfig
    session: Session
    sets: Sets

    @property
    def _everywhere(self) -> dict[str, Any]:
        """What holds for all stages of the run."""
        return {"seed": self.cfg.seed, "device": self.cfg.device}

    def generate(
        self, teacher: ModelRef, count: int, salt: str, label: str = ""
    ) -> list[Candidate]:
        """``count`` pairs that the teacher writes for the seed prompts.

        One ``salt`` is one stream of chance: two teachers given the same one get the same prompts.
        """
        cfg = self.cfg.generation.into(
            GenerationConfig,
            num_candidates=count,
            dtype=self.cfg.teacher.dtype,
            **self._everywhere,
        )
        inputs = self.sets.seeds, teacher, salt
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

    def teach(self, teacher: ModelRef, pairs: Sequence[Pair]) -> Entry:
        """The teacher after DPO."""
        cfg = self.cfg.dpo.into(DPOStageConfig, **self._everywhere)
        return self.session.run(dpo.DPO, cfg, pairs, teacher, label=self.cfg.scoring.estimator)

    def train_and_evaluate(
        self, name: str, teacher: ModelRef, student: ModelRef, baseline: Baseline | None = None
    ) -> tuple[ModelRef, Evaluated]:
        """The student trained on what the teacher writes, and its marks."""
        rows = self.generate(teacher, self.cfg.sizes.training, "training", f"training-{name}")
        cfg = self.cfg.sft.into(SFTConfig, **self._everywhere)
        entry = self.session.run(training.SFT, cfg, _examples(rows), student, label=name)
        trained = entry.model("student")
        ready = self.sets.evaluator
        assert ready is not None, "a run that ends at its scores trains and evaluates nothing"
        marks = ready.evaluate(self.session, trained, baseline=baseline, label=name)
        for note in marks.notes:
            self.session.note(note)
        return trained, marks


def _examples(rows: Sequence[Candidate]) -> list[Example]:
    return [row.example() for row in rows]
