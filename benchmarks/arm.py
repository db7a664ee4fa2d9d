"""What one arm of a study costs, stage by stage: seconds of the clock, and CPU seconds beside them.

``python -m benchmarks.arm --pairs 64 --training 128`` teaches SmolLM2 on pairs of seed instructions
after prompts of the loop, lets it write training data, trains the 3-bit student of ``smol`` on
them and evaluates it. The untaught teacher's student and the scores are the study's, not an arm's:
they are not paid here. ``--only`` names the stages. On a CPU one thread works, and CPU seconds are
what counts, since other jobs may share the machine; on a GPU (``--device cuda``) the clock does.
Every stage reads its model anew, as in a run. ``--profile`` says of each stage what it waited for:
the device, the starting of kernels, or Python (``benchmarks.watched``).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.watched import Watched
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
    """Adds up seconds of the clock and of CPUs by stage."""

    spent: dict[str, np.ndarray]
    profile: bool = False

    def run(self, stage: Stage, cfg: Config, *inputs: Input, label: str = "") -> Entry:
        """As a session does."""
        began = _now()
        with Watched() if self.profile else nullcontext() as seen:
            entry = super().run(stage, cfg, *inputs, label=label)
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
            took = _now() - began
        self.spent[stage.name] += took
        print(f"  {stage.name} {label} {took[0]:.1f} s, {took[1]:.1f} CPU s", flush=True)
        for line in seen.lines() if seen else ():
            print(f"    {line}", flush=True)
        return entry


def _now() -> np.ndarray:
    """Seconds of the clock and of this process's CPUs, shape [2]."""
    return np.array([time.perf_counter(), time.process_time()])


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the seconds of each stage and of the whole."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default=PRESET)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--training", type=int, default=128)
    parser.add_argument("--prompts", type=int, default=64, help="evaluation prompts")
    parser.add_argument("--only", nargs="*", default=["dpo", "generate", "sft", "evaluate"])
    parser.add_argument("--profile", action="store_true", help="what each stage waits for")
    parser.add_argument("--set", nargs="*", default=[], help="settings of the run")
    told = parser.parse_args(argv)
    torch.set_num_threads(1)
    began = time.perf_counter()
    torch.zeros(1, device=models.device_of(told.device))
    where = models.device_in_words(told.device)
    print(f"  {where}: ready after {time.perf_counter() - began:.1f} s")
    cfg = load_run(
        told.preset,
        [
            f"device={told.device}",
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
        session.spent, session.profile = defaultdict(lambda: np.zeros(2)), told.profile
        steps = Steps(cfg, session, sets, {cfg.student.name: student})
        if "dpo" in told.only:
            pairs = _pairs(cfg, sets.seeds, told.pairs)
            taught = session.run(
                DPO, cfg.dpo.into(DPOStageConfig, seed=0, device=told.device), pairs, teacher
            )
            teacher = taught.model("teacher")
        rows = steps.generate(teacher, told.training, "training")
        ready = {cfg.student.name: student}
        if "sft" in told.only:
            ready = steps.train("arm", rows)
        if "evaluate" in told.only:
            _evaluate(steps, ready[cfg.student.name], student)
        for row in session.ledger:
            print(
                f"  {row.stage} {row.label} {row.phase}: {row.seconds:.1f} s, {row.items} items, "
                f"{row.tokens} tokens, {row.peak_bytes / 1e9:.1f} GB"
            )
    all_of = sum(session.spent.values(), np.zeros(2))
    for stage, (clock, cpu) in [*session.spent.items(), ("all", all_of)]:
        print(f"{stage:12} {clock:7.1f} s  {clock / all_of[0]:4.0%}  {cpu:7.1f} CPU s")
    print(f"{where}; {vars(told)}; {cfg.teacher.dtype} teacher")


def _evaluate(steps: Steps, model: Any, base: Any) -> None:
    """Marks of a student against the base student, whose answers are paid before."""
    ready = steps.sets.evaluator
    assert ready is not None
    session = steps.session
    assert isinstance(session, Timed)
    against = Baseline(name="none", model=base)
    before = {stage: spent.copy() for stage, spent in session.spent.items()}
    ready.evaluate(session, base, label="none")
    session.spent = defaultdict(lambda: np.zeros(2), before)
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
