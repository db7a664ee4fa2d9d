"""The steps of the loop: each a stage of this run, with the settings that it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from influbench import generation, scoring, training
from influbench.data.records import Candidate, Example, ModelRef, Outcome, Pair, SeedPrompt
from influbench.evaluation.evaluator import Evaluated
from influbench.evaluation.suite import Baseline
from influbench.files import digest
from influbench.generation.attempts import GenerationConfig
from influbench.loop import arms, learnt, preferences
from influbench.loop.arms import BASELINE, Arm
from influbench.loop.sets import Sets
from influbench.loop.settings import RunConfig
from influbench.models.templates import templated
from influbench.scoring import MethodConfig, Scored
from influbench.store.session import Session
from influbench.training import DPOStageConfig, SFTConfig, WarmupConfig
from influbench.training.keeping import kept_models


@dataclass(frozen=True)
class Taught:
    """What teaching on pairs left."""

    pairs: Sequence[Pair]
    report: Mapping[str, Any]
    """Losses, held-out accuracy."""
    teacher: ModelRef
    kept: Mapping[float, ModelRef]
    """The teacher by the share of its steps, the end included, where ``keep_checkpoints`` asks."""


@dataclass(frozen=True)
class Learner:
    """An arm's probed student on the way of its training."""

    rows: Sequence[Candidate]
    """What it learns."""
    kept: Mapping[float, ModelRef]
    """Its states, with moments, by the share of its steps."""


@dataclass
class Steps:
    """The stages of one run."""

    cfg: RunConfig
    session: Session
    sets: Sets
    students: Mapping[str, ModelRef] = field(default_factory=dict)
    """All that learn the training data, before any training; the probed one first."""
    trained: dict[str, dict[str, Mapping[str, Any]]] = field(default_factory=dict)
    """What the last training of each student reports, by student and arm."""
    texts: dict[str, Sequence[Outcome]] = field(default_factory=dict)
    """What the probed student learnt looks like, by arm."""
    learners: dict[str, Learner] = field(default_factory=dict)
    """The probed student on the way, by arm."""

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
        responses: int = 1,
    ) -> list[Candidate]:
        """``count`` pairs that the teacher writes for seed prompts, the run's unless given.

        ``responses`` of them have one instruction.

        One ``salt`` is one stream of chance: two teachers given the same one get the same prompts.
        """
        cfg = self.cfg.generation.into(
            GenerationConfig,
            num_candidates=count,
            responses_per_instruction=responses,
            dtype=self.cfg.teacher.dtype,
            endpoint=self.cfg.teacher.kind == "endpoint",
            **self._everywhere,
        )
        inputs = self.sets.seeds if seeds is None else seeds, teacher, salt
        entry = self.session.ask(generation.STAGE, cfg, *inputs, label=label or salt)
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
        label: str = "",
    ) -> Scored:
        """What one estimator says of the candidates; ``label`` is its name by default."""
        own = self.cfg.scoring
        cfg = own.knobs().into(
            MethodConfig,
            estimator=name,
            options=own.options_of(name),
            dtype=self.cfg.student.dtype,
            judge=self.cfg.placed_judge(),
            **self._everywhere,
        )
        inputs = _examples(candidates), self.sets.reference, _examples(warmup), student
        return scoring.score_candidates(self.session, cfg, *inputs, label=label)

    def teach(
        self,
        candidates: Sequence[Candidate],
        teacher: ModelRef,
        arm: Arm,
        scored: Scored,
    ) -> Taught:
        """The teacher taught on pairs that follow the scores."""
        if self.cfg.dpo.target == "response":
            candidates = preferences.of_responses(candidates)
        pairs = preferences.build_pairs(
            self.cfg.preferences, candidates, scored.scores, scored.noise_floor
        )
        if arm.way == "flipped":
            pairs = arms.flipped(pairs)
        count = self.cfg.keep_checkpoints
        cfg = self.cfg.dpo.into(DPOStageConfig, keep_checkpoints=count, **self._everywhere)
        entry = self.session.run(training.DPO, cfg, pairs, teacher, label=arm.name)
        taught = entry.model("teacher")
        kept = {**kept_models(entry), 1.0: taught} if count else {}
        return Taught(pairs, entry.meta, taught, kept)

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

    def train(self, name: str, rows: Sequence[Candidate]) -> dict[str, ModelRef]:
        """Every student trained on ``rows``, each from what it was before any training."""
        trained: dict[str, ModelRef] = {}
        for student, model in self.students.items():
            label, probed = self._label(name, student), student == self.cfg.student.name
            kept = self.cfg.keep_checkpoints if probed else 0
            cfg = self.cfg.sft.into(SFTConfig, keep_checkpoints=kept, **self._everywhere)
            entry = self.session.run(training.SFT, cfg, _examples(rows), model, label=label)
            trained[student] = entry.model("student")
            self.trained.setdefault(student, {})[name] = entry.meta
            if probed:
                learned = rows[: entry.meta["examples"]]
                self.texts[name] = learnt.texts(self.session, learned, model, name)
                self.learners[name] = Learner(learned, kept_models(entry))
            if (wanted := cfg.response_tokens) and entry.meta["examples"] == len(rows):
                self.session.note(
                    f"{label}: learnt {entry.meta['response_tokens']} response tokens, all there "
                    f"were, of the {wanted} that every arm should learn: raise sizes.training"
                )
        return trained

    def train_probed(self, name: str, rows: Sequence[Candidate]) -> dict[str, ModelRef]:
        """The probed student alone, trained on ``rows``."""
        probed = self.cfg.student.name
        cfg = self.cfg.sft.into(SFTConfig, **self._everywhere)
        inputs = _examples(rows), self.students[probed]
        return {probed: self.session.run(training.SFT, cfg, *inputs, label=name).model("student")}

    def evaluate(
        self,
        name: str,
        models: Mapping[str, ModelRef],
        against: Mapping[str, ModelRef] | None = None,
    ) -> dict[str, Evaluated]:
        """Marks of every student, each compared with its own of ``against``."""
        ready = self.sets.evaluator
        assert ready is not None, "a run that ends at its scores trains and evaluates nothing"
        found: dict[str, Evaluated] = {}
        for student, model in models.items():
            label, baseline = self._label(name, student), None
            if against is not None:
                own = self._label(BASELINE, student)
                baseline = Baseline(name=own, model=against[student])
            marks = ready.evaluate(self.session, model, baseline=baseline, label=label)
            for note in marks.notes:
                self.session.note(note)
            found[student] = marks
        return found

    def _label(self, name: str, student: str) -> str:
        """What an arm's student is called in stages; the probed one by the arm alone."""
        return name if student == self.cfg.student.name else f"{name} {student}"


def teacher_of(cfg: RunConfig, session: Session) -> ModelRef:
    """The teacher, with its template; of one behind an endpoint there is only the name."""
    if cfg.teacher.kind == "weights":
        return templated(cfg.teacher, session.run)
    name = cfg.teacher.name
    return ModelRef(path=name, digest=digest(f"endpoint:{name}"))


def _examples(rows: Sequence[Candidate]) -> list[Example]:
    return [row.example() for row in rows]
