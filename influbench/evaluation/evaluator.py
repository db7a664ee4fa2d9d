"""Students put through the suites that settings ask for: one path for the loop and the command.

Everything that can be refused is refused by :func:`prepare`, before the first second of compute.
Every step is a stage: killed and started again it goes on where it was, and what was judged before
is not asked again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from influbench.data.records import ModelRef, Outcome
from influbench.errors import UserError
from influbench.evaluation import judge_check, recorded
from influbench.evaluation.answers import AnswerConfig
from influbench.evaluation.length_control import read_gamed
from influbench.evaluation.questions import reference_block
from influbench.evaluation.settings import EvaluationConfig
from influbench.evaluation.suite import (
    Baseline,
    Material,
    Needs,
    Numbers,
    Sitting,
    Suite,
    VerdictConfig,
)
from influbench.evaluation.suites import harness
from influbench.evaluation.suites.alpaca_eval import AlpacaEval
from influbench.evaluation.suites.harness import Harness
from influbench.evaluation.suites.head_to_head import HeadToHead
from influbench.evaluation.suites.losses import Losses, held_out
from influbench.evaluation.suites.mt_bench import MTBench
from influbench.evaluation.suites.mt_bench_pairwise import MTBenchPairwise
from influbench.judging import JudgeConfig
from influbench.statistics.estimate import Estimate
from influbench.store.session import Session

SUITES = {s.name: s for s in (Losses, AlpacaEval, MTBench, MTBenchPairwise, HeadToHead)}


@dataclass(frozen=True, kw_only=True)
class Part:
    """One suite's share of a student's marks."""

    suite: str
    numbers: Numbers
    quality: Mapping[str, Estimate]
    """How the judge behaved here: see ``judge_check.quality``."""
    outcomes: Sequence[Outcome]

    def published(self, name: str) -> str:
        """What a number or an outcome of this suite is called in results.

        ``alpaca_eval/win_rate``; losses by their names alone; the harness's begin with the task,
        which may be one of a group.
        """
        if self.suite == Losses.name:
            return name
        if self.suite.startswith(harness.PREFIX):
            return f"{harness.PREFIX}{name}"
        return f"{self.suite}/{name}"


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """All marks of one student."""

    parts: Sequence[Part] = ()
    judges: Sequence[str] = ()
    """Names of those that were asked."""
    notes: Sequence[str] = ()
    """What a reader of the numbers must know."""

    def numbers(self) -> dict[str, Estimate]:
        """Every number by its published name, the judge's behaviour beside its marks."""
        return {
            part.published(name): number
            for part in self.parts
            for name, number in {**part.numbers, **part.quality}.items()
        }

    def outcomes(self) -> list[Outcome]:
        """Item by item, by published name."""
        return [
            replace(outcome, metric=part.published(outcome.metric))
            for part in self.parts
            for outcome in part.outcomes
        ]


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """The suites of a run with all that they need; any student can be put through them."""

    suites: Sequence[Suite]
    material: Material
    decoding: Mapping[str, AnswerConfig]
    verdict: VerdictConfig | None
    device: str

    def evaluate(
        self, session: Session, student: ModelRef, *, label: str, baseline: Baseline | None = None
    ) -> Evaluated:
        """All marks of one student; suites that compare are left out where there is no baseline.

        Args:
            session: runs the stages.
            student: the model.
            label: what it is called.
            baseline: whom it is compared with.

        Raises:
            UserError: the judge fails or reaches its spending cap; what was bought is kept.
        """
        verdict = self.verdict and self.verdict.model_copy(update={"archive": session.archive})
        sitting = Sitting(
            session=session,
            student=student,
            label=label,
            material=self.material,
            baseline=baseline,
            decoding=self.decoding,
            verdict=verdict,
            device=self.device,
        )
        asked = [s for s in self.suites if baseline or s.needs.baseline == "none"]
        parts = [_part(suite, sitting) for suite in asked]
        said = [note for note in sitting.judges.values() if note]
        silent = [note for part in parts if (note := unjudged(part))]
        return Evaluated(
            parts=parts,
            judges=list(sitting.judges),
            notes=list(dict.fromkeys([*said, *sitting.notes, *silent])),
        )


def needs(suites: Sequence[str]) -> list[Needs]:
    """What suites must be given.

    Raises:
        UserError: there is none of this name.
    """
    known = f"one or more of {', '.join(SUITES)} and {harness.PREFIX}TASK"
    if not suites:
        raise UserError(f"evaluation.suites: expected {known}, got none")
    found: list[Needs] = []
    for name in suites:
        if name.startswith(harness.PREFIX):
            found.append(Harness.needs)
        elif name in SUITES:
            found.append(SUITES[name].needs)
        else:
            raise UserError(f"evaluation.suites: expected {known}, got '{name}'")
    return found


def prepare(
    cfg: EvaluationConfig, material: Material, judge: JudgeConfig | None, *, seed: int, device: str
) -> Evaluator:
    """Reads and checks all that the suites need.

    Args:
        cfg: the suites and their settings.
        material: what they ask about.
        judge: None where no suite needs one.
        seed: of sampled answers and of random orders.
        device: where students run.

    Raises:
        UserError: an unknown suite, no judge where one is needed, bad tables or task files,
            prompts without answers where losses are wanted, or questions without the references
            that they are graded against.
    """
    asked = dict(zip(cfg.suites, needs(cfg.suites), strict=True))
    judged = [name for name, need in asked.items() if need.judge]
    if judged and judge is None:
        raise UserError(
            f"{judged[0]} needs a judge: give --judge KIND:MODEL, for example "
            "local:smollm2-135m-instruct or openai:gpt-4-turbo"
        )
    if Losses.name in asked and not held_out(material.prompts):
        raise UserError(
            f"losses: expected prompts with an answer each, {material.source or 'the prompts'} "
            "have none"
        )
    if any(need.turns == "two" for need in asked.values()):
        for question in material.questions:
            for turn in range(len(question.turns)):
                reference_block(question, turn)
    told = {"seed": seed, "dtype": cfg.dtype, "device": device}
    return Evaluator(
        suites=[_suite(name, cfg, material, device) for name in asked],
        material=material,
        decoding={
            "one": cfg.answers.into(AnswerConfig, **told),
            "two": cfg.turns.into(AnswerConfig, **told),
        },
        verdict=judge and VerdictConfig(judge=judge, orders=cfg.orders, seed=seed),
        device=device,
    )


def unjudged(part: Part) -> str:
    """A note where a judged suite has outcomes and no score; empty where all is well."""
    if part.suite not in SUITES or not SUITES[part.suite].needs.judge:
        return ""
    if any(name.startswith(("win", "grade")) for name in part.numbers):
        return ""
    silent = part.quality.get(judge_check.UNPARSEABLE)
    share = "all" if silent is None else f"{silent.value:.0f} %"
    return f"{part.suite}: no score, since {share} of the judge's replies give no verdict"


def _suite(name: str, cfg: EvaluationConfig, material: Material, device: str) -> Suite:
    if name.startswith(harness.PREFIX):
        return harness.suite(name, cfg.harness, dtype=cfg.dtype, device=device)
    if name == AlpacaEval.name:
        return _alpaca_eval(cfg, material)
    return SUITES[name]()


def _alpaca_eval(cfg: EvaluationConfig, material: Material) -> AlpacaEval:
    if cfg.gamed is not None and cfg.difficulty is not None:
        raise UserError(
            "evaluation.gamed has the difficulties in it: give either it or evaluation.difficulty"
        )
    source, prompts = material.source, material.prompts
    if cfg.gamed is not None:
        gamed = read_gamed(cfg.gamed)
        found = recorded.gamed_difficulties(source, gamed, cfg.gamed, prompts)
        return AlpacaEval(difficulty=found, gamed=gamed)
    if cfg.difficulty is not None:
        return AlpacaEval(difficulty=recorded.difficulties(source, cfg.difficulty, prompts))
    return AlpacaEval()


def _part(suite: Suite, sitting: Sitting) -> Part:
    marks = suite.mark(sitting)
    return Part(
        suite=suite.name,
        numbers=marks.numbers,
        quality=judge_check.quality(marks.outcomes) if suite.needs.judge else {},
        outcomes=marks.outcomes,
    )
