"""What one arm of a study costs on a CPU, stage by stage: CPU seconds of one process, one thread.

``python -m benchmarks.arm --pairs 64 --training 128`` teaches SmolLM2 on pairs of seed instructions
after prompts of the loop, lets it write training data, trains the 3-bit student of ``smol`` on
them and evaluates it. The untaught teacher's student and the scores are the study's, not an arm's:
they are not paid here. ``--only`` names the stages. CPU seconds, since other jobs may share the
machine; every stage reads its model anew, as in a run.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from influbench import models
from influbench.config import Config
from influbench.data.records import Pair
from influbench.evaluation.suite import Baseline
from influbench.generation.instructions import CLOSE, OPEN, request
from influbench.loop.reading import load_run
from influbench.loop.sets import check
from influbench.loop.steps import Steps
from influbench.models import chat_prompt
from influbench.store import Entry, Input, Stage, Store
from influbench.store.session import Session
from influbench.training import DPO, DPOStageConfig

PRESET = "smol"


class Timed(Session):
    """Adds up CPU seconds by stage and phase."""

    spent: dict[str, float]

    def run(self, stage: Stage, cfg: Config, *inputs: Input, label: str = "") -> Entry:
        """As a session does."""
        began = time.process_time()
        entry = super().run(stage, cfg, *inputs, label=label)
        self.spent[stage.name] += time.process_time() - began
        print(f"  {stage.name} {label} {time.process_time() - began:.1f} CPU s", flush=True)
        return entry


def main() -> None:
    """Prints CPU seconds of each stage and of the whole."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--training", type=int, default=128)
    parser.add_argument("--prompts", type=int, default=64, help="evaluation prompts")
    parser.add_argument("--only", nargs="*", default=["dpo", "generate", "sft", "evaluate"])
    parser.add_argument("--set", nargs="*", default=[], help="settings of the run")
    told = parser.parse_args()
    torch.set_num_threads(1)
    cfg = load_run(
        PRESET,
        [
            f"sizes.training={told.training}",
            f"data.num_evaluation={told.prompts}",
            "sft.response_tokens=null",
            *told.set,
        ],
    )
    sets = check(cfg)
    teacher, student = (models.resolve(one.name) for one in (cfg.teacher, cfg.student))
    with tempfile.TemporaryDirectory() as folder:
        session = Timed(Store(Path(folder)))
        session.spent = defaultdict(float)
        steps = Steps(cfg, session, sets, {cfg.student.name: student})
        if "dpo" in told.only:
            pairs = _pairs(cfg, sets.seeds, told.pairs)
            taught = session.run(DPO, cfg.dpo.into(DPOStageConfig, seed=0), pairs, teacher)
            teacher = taught.model("teacher")
        rows = steps.generate(teacher, told.training, "training")
        ready = {cfg.student.name: student}
        if "sft" in told.only:
            ready = steps.train("arm", rows)
        if "evaluate" in told.only:
            _evaluate(steps, ready[cfg.student.name], student)
        for row in session.ledger:
            print(f"  {row.stage} {row.label} {row.phase}: {row.items} items, {row.tokens} tokens")
    total = sum(session.spent.values())
    for stage, seconds in session.spent.items():
        print(f"{stage:10} {seconds:7.1f} CPU s  {seconds / total:4.0%}")
    print(f"{'all':10} {total:7.1f} CPU s; {vars(told)}; {cfg.teacher.dtype} teacher")


def _evaluate(steps: Steps, model: Any, base: Any) -> None:
    """Marks of a student against the base student, whose answers are paid before."""
    ready = steps.sets.evaluator
    assert ready is not None
    session = steps.session
    assert isinstance(session, Timed)
    against = Baseline(name="none", model=base)
    before = dict(session.spent)
    ready.evaluate(session, base, label="none")
    session.spent = defaultdict(float, before)
    ready.evaluate(session, model, baseline=against, label="arm")


def _pairs(cfg: Any, seeds: Any, count: int) -> list[Pair]:
    """Seed instructions as completions after prompts that show others."""
    tokenizer = models.load_tokenizer(models.resolve(cfg.teacher.name))
    limit, shots = cfg.generation.max_seed_characters, cfg.generation.num_shots
    texts = [s.instruction for s in seeds if len(s.instruction) <= limit]
    made: list[Pair] = []
    for n in range(count):
        shown = [texts[(n * shots + k) % len(texts)] for k in range(shots)]
        prompt = chat_prompt(tokenizer, [("user", request(shown))], OPEN)
        chosen, rejected = (f"{texts[(7 * n + k) % len(texts)]}{CLOSE}" for k in (1, 3))
        made.append(
            Pair(
                id=f"p{n}",
                group=f"g{n}",
                prompt=prompt,
                chosen=chosen,
                rejected=rejected,
                chosen_id=f"c{n}",
                rejected_id=f"r{n}",
                margin=1.0,
            )
        )
    return made


if __name__ == "__main__":
    main()
