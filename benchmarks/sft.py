"""Our step of SFT against TRL's: the same rows and seed, CPU seconds of one run, in turn.

``python -m benchmarks.sft`` trains SmolLM2-135M on rows of the starter data, four of them a pass in
TRL, which is what it was given here before. CPU seconds, since other jobs may share the machine.
The losses and the weights that both leave are compared too.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import datasets
import torch
from transformers import Trainer

from influbench import models
from influbench.data.records import ModelRef
from influbench.data.sets import load_starter
from influbench.store import Meter, Work
from influbench.student import LanguageStudent, budgets
from influbench.student.losses import Encoded
from influbench.terminal.progress import SilentProgress
from influbench.training import fine_tuning, trainer
from influbench.training.settings import SFTConfig

if TYPE_CHECKING:
    from trl.trainer.sft_trainer import SFTTrainer

ROWS = 4
"""In one pass of TRL's trainer."""

Maker = Callable[[SFTConfig, Sequence[Encoded], LanguageStudent, Work], Trainer]


def main() -> None:
    """Prints CPU seconds a row of both, their ratio, and how far losses and weights are apart."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    told = parser.parse_args()
    ref = models.resolve(told.model)
    cfg = SFTConfig(device="cpu", batch_size=told.batch_size)
    makers: dict[str, Maker] = {"TRL": with_trl, "ours": ours}
    seconds: dict[str, list[float]] = {name: [] for name in makers}
    left: dict[str, tuple[list[float], torch.Tensor]] = {}
    for _ in range(told.rounds):
        for name, maker in makers.items():
            took, losses, weights = _trained(cfg, ref, told.rows, maker)
            seconds[name].append(took)
            left[name] = losses, weights
    for name, found in seconds.items():
        each = ", ".join(f"{s / told.rows:.2f}" for s in found)
        print(f"{name:5} {median(found) / told.rows:.2f} CPU s a row ({each})")
    ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
    print(f"ratio {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    (losses, weights), (others, other_weights) = left.values()
    apart = max(abs(a - b) for a, b in zip(losses, others, strict=True))
    moved = float((weights - other_weights).norm() / weights.norm())
    print(f"losses differ by {apart:.1e}, weights by {moved:.1e} of their norm")


def _trained(
    cfg: SFTConfig, ref: ModelRef, rows: int, maker: Maker
) -> tuple[float, list[float], torch.Tensor]:
    """CPU seconds of a training, the loss of each step, and the weights that it leaves."""
    held = fine_tuning.loaded(cfg, ref)
    encoded = [held.encode(e) for e in load_starter("seed")[:rows]]
    with tempfile.TemporaryDirectory() as folder, trainer.off_screen():
        work = Work(path=Path(folder), meter=Meter(), progress=SilentProgress(), title="SFT")
        training = maker(cfg, encoded, held, work)
        steps = trainer.optimizer_steps(cfg, rows)
        began = time.process_time()
        log = trainer.train(training, cfg, steps, work=work, keep=lambda *_: None)
        took = time.process_time() - began
    weights = torch.cat([w.detach().flatten() for w in held.model.parameters()])
    return took, [row["loss"] for row in log], weights


def ours(cfg: SFTConfig, encoded: Sequence[Encoded], held: LanguageStudent, work: Work) -> Trainer:
    """The trainer of the stage ``sft``."""
    held.model.train()
    tokens = budgets.of_training(held, encoded, cfg.batch_size)
    return fine_tuning.trainer_of(cfg, encoded, held, held.model, work, tokens)


def with_trl(
    cfg: SFTConfig, encoded: Sequence[Encoded], held: LanguageStudent, work: Work
) -> SFTTrainer:
    """TRL's trainer on rows that are tokenised as the student tokenises them everywhere."""
    from trl.trainer.sft_config import SFTConfig as TrainerSettings
    from trl.trainer.sft_trainer import SFTTrainer

    together = trainer.divisor(cfg.batch_size, ROWS)
    settings = TrainerSettings(
        **trainer.arguments(cfg, len(encoded), together, work),
        max_length=None,
        # Otherwise TRL would template, cut and drop rows by rules of its own.
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    rows = datasets.Dataset.from_list([_row(e) for e in encoded])
    training = SFTTrainer(
        model=held.model, args=settings, train_dataset=rows, processing_class=held.tokenizer
    )
    assert training.train_dataset is rows, "TRL has changed the rows"
    return training


def _row(encoded: Encoded) -> dict[str, Any]:
    labels = [-100] * len(encoded.ids)
    for position in encoded.learned:
        labels[position] = encoded.ids[position]
    return {"input_ids": list(encoded.ids), "labels": labels}


if __name__ == "__main__":
    main()
