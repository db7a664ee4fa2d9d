"""A step of SFT: TRL's trainer with four rows a pass, and passes as large as the memory says."""

from __future__ import annotations

import dataclasses
import tempfile
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
from transformers import Trainer

from benchmarks import sft
from benchmarks.gpu import clock, students
from benchmarks.gpu.rows import Recorder
from influbench.loop.plan.clock import Clock, Steps
from influbench.store import Meter, Work
from influbench.student import LanguageStudent, budgets
from influbench.student.losses import Encoded
from influbench.training import fine_tuning, trainer
from influbench.training.settings import SFTConfig

ROWS = 32
"""In one optimizer step, as the paper's presets have it."""

STEPS = 7
"""Of which the first two do not count: moments are made, and the allocator finds its blocks."""


def step(shape: str, tokens: int, device: torch.device, record: Recorder) -> None:
    """Seconds of a step in bf16 products, and the most memory, in both ways.

    Args:
        shape: of ``students.SHAPES``.
        tokens: mean length of a row.
        device: where.
        record: takes the rows.
    """
    cfg = SFTConfig(batch_size=ROWS, epochs=STEPS, compute="bfloat16", device=str(device))
    for by_memory in (False, True):
        name = "passes by memory" if by_memory else "TRL, 4 rows a pass"
        with record.guard(f"{shape}: {name}"):
            held = students.student(shape, device, moments=False)
            note = f"{ROWS} rows of {tokens} tokens"
            if by_memory:
                held = dataclasses.replace(held, compute=cfg.compute)
                room, seconds = clock.timed(lambda h=held: _room(h, tokens), device)
                note += f", {room} tokens a pass, measured in {seconds:.2f} s"
            clock.forget(device)
            found = _seconds(cfg, held, tokens, by_memory=by_memory)
            peak = clock.peak_gb(device)
            record(f"{shape}: SFT step, {name}", found, "s", f"{note}, peak {peak:.1f} GB")
            clock.forget(device)


def _room(held: LanguageStudent, tokens: int) -> int:
    held.model.train()
    return budgets.of_training(held, _encoded(held, tokens), ROWS)


def _encoded(held: LanguageStudent, tokens: int) -> list[Encoded]:
    return [held.encode(e) for e in students.examples("training", ROWS, tokens, 40)]


def _seconds(cfg: SFTConfig, held: LanguageStudent, tokens: int, *, by_memory: bool) -> float:
    rows, steps = _encoded(held, tokens), Steps(Clock(held.model.device.type))
    with tempfile.TemporaryDirectory() as folder, trainer.off_screen():
        work = Work(path=Path(folder), meter=Meter(), progress=steps, title="training")
        training: Trainer = (
            fine_tuning.trainer_of(cfg, rows, held, held.model, work, _room(held, tokens))
            if by_memory
            else sft.with_trl(cfg, rows, held, work)
        )
        trainer.train(training, cfg, STEPS, work=work, keep=lambda *_: None)
    return median(later - done for done, later in pairwise(steps.done[1:]))
