"""The data of a run, and the checks that come before its first second of compute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from influbench import data
from influbench.data.records import Example, SeedPrompt
from influbench.errors import UserError, require
from influbench.estimator import registry
from influbench.evaluation import evaluator
from influbench.evaluation.evaluator import Evaluator
from influbench.evaluation.suite import Material
from influbench.loop import arms, preferences
from influbench.loop.arms import BASELINE
from influbench.loop.settings import RunConfig
from influbench.models.templates import check_template


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
    require("loop", "a run of the loop")
    arm = arms.parse(cfg.scoring.estimator)
    for name in cfg.scoring.compare:
        registry.build(name)
    _check_scores_only(cfg)
    if cfg.keep_checkpoints and cfg.sft.method == "lora":
        raise UserError(
            f"keep_checkpoints = {cfg.keep_checkpoints}: expected sft.method = full, since states "
            "of the student are kept with the moments of all weights, got lora"
        )
    names = [model.name for model in (cfg.student, *cfg.students)]
    if len(set(names)) < len(names):
        raise UserError(
            f"students: expected every model once, the probed student ({names[0]}) apart, got "
            f"{names[1:]}: leave one out"
        )
    here = [] if cfg.teacher.kind == "endpoint" else [cfg.teacher]
    for model in (*here, cfg.student, *cfg.students):
        check_template(model)
    if arm.estimator:
        method = registry.build(arm.estimator, cfg.scoring.options)
        if arm.pairs:
            preferences.check(cfg.preferences.rule, method.facts.scale, method.facts.stderr)
            _check_target(cfg.dpo.target, cfg.generation.responses_per_instruction)
    _check_engines(cfg, arm)
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


def _check_engines(cfg: RunConfig, arm: arms.Arm) -> None:
    """Refuses a server that is running where several models would be asked of it."""
    if cfg.generation.engine == "server" and arm.pairs:
        raise UserError(
            "generation.engine = server: a server that is running has one teacher, and arm "
            f"'{arm.name}' makes another: take engine = hf, or an arm that does not teach"
        )
    if cfg.teacher.kind == "endpoint":
        _check_endpoint(cfg, arm)
    for name in ("answers", "turns"):
        if getattr(cfg.evaluation, name).engine == "server" and cfg.stop_after == "end":
            raise UserError(
                f"evaluation.{name}.engine = server: a server that is running has one model, and a "
                "run evaluates several: take vllm, which is started on each, or hf"
            )


def _check_endpoint(cfg: RunConfig, arm: arms.Arm) -> None:
    """Refuses what a teacher that only sends replies cannot do."""
    writing = cfg.generation
    samplings = {"instruction": writing.instruction, "response": writing.response}
    penalised = [name for name, rules in samplings.items() if rules.repetition_penalty != 1]
    wrong = {
        f"arm '{arm.name}' would teach it: take none, bootstrap:NAME or filter:NAME": arm.pairs,
        "generation.prefill begins its turn: set it to false": writing.prefill,
        f"generation.engine = {writing.engine} needs its weights: leave it out": (
            writing.engine != "hf"
        ),
        f"generation.{(penalised or [''])[0]}.repetition_penalty is not known there: set it to 1": (
            penalised
        ),
        "generation.server_url says where it is: set it": not writing.server_url,
    }
    for why, holds in wrong.items():
        if holds:
            raise UserError(f"teacher.kind = endpoint: only its replies come back; {why}")


def _check_target(target: str, responses: int) -> None:
    """Siblings are two responses to one instruction, or two instructions with one response each."""
    if target == "response" and responses < 2:
        raise UserError(
            "dpo.target = response: expected generation.responses_per_instruction of 2 or more, "
            f"since pairs are of two responses to one instruction, got {responses}"
        )
    if target == "instruction" and responses > 1:
        raise UserError(
            f"generation.responses_per_instruction = {responses}: expected 1 with dpo.target = "
            "instruction, since every response would pair its instruction again: set "
            "dpo.target=response, or leave it out"
        )


def _check_scores_only(cfg: RunConfig) -> None:
    if cfg.stop_after != "scores":
        return
    if cfg.rounds > 1 or cfg.scoring.estimator != BASELINE:
        raise UserError(
            f"stop_after = scores: expected scoring.estimator = '{BASELINE}' and one round, since "
            f"no teacher is taught, got '{cfg.scoring.estimator}' and {cfg.rounds}: name the "
            "methods in scoring.compare"
        )
    if cfg.keep_checkpoints:
        raise UserError(
            f"stop_after = scores: expected keep_checkpoints = 0, since no teacher is taught and "
            f"no student trained, got {cfg.keep_checkpoints}: leave one of the two out"
        )
