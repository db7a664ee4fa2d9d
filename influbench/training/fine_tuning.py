"""The student's final training."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import torch
from transformers import TrainingArguments

from influbench import models
from influbench.data.records import Example, ModelRef
from influbench.errors import UserError
from influbench.models.halving import in_room
from influbench.store import Work
from influbench.student import LanguageStudent, StudentSettings, Told, budgets, load_student
from influbench.student.losses import Encoded
from influbench.training import trainer
from influbench.training.keeping import folder_of, save_with_optimizer
from influbench.training.low_memory import recomputed, with_adapter
from influbench.training.response_trainer import ResponseTrainer
from influbench.training.settings import SFTConfig

HINT = "lower sft.max_length, or set sft.method=lora or sft.compute=bfloat16"
"""What a device that is too small needs."""


@in_room("SFT", HINT)
def sft(cfg: SFTConfig, examples: Sequence[Example], student: ModelRef, *, work: Work) -> None:
    """Trains the final student from the base student; leaves the folder ``student``.

    ``work.meta`` says how many examples and response tokens it learns. Of states that are kept the
    optimizer is too, at the peak of the learning rate.

    Raises:
        UserError: no examples, one that is too long, or a loss that is not finite.
    """
    if not examples:
        raise UserError("SFT: expected at least one example to train on, got none: generate some")
    with work.meter.phase("load"):
        held = loaded(cfg, student)
    encoded = [held.encode(e) for e in examples]
    if cfg.response_tokens is not None:
        encoded = _within(encoded, cfg.response_tokens)
    cut = sum(row.cut for row in encoded)
    if cut and cfg.overlong == "refuse":
        raise UserError(
            f"SFT: {cut} of {len(encoded)} examples have more than {held.max_length} tokens: "
            "shorten them, raise sft.max_length, or set sft.overlong=cut"
        )
    log = learnt(cfg, encoded, held, work=work)
    with work.meter.phase("save"):
        models.save(held.model, held.tokenizer, work.folder("student"))
    work.meta.update(
        {
            "steps": trainer.optimizer_steps(cfg, len(encoded)),
            "examples": len(encoded),
            "response_tokens": sum(len(row.learned) for row in encoded),
            "cut": cut,
            "loss": [row["loss"] for row in log],
            "learning_rate": [row["learning_rate"] for row in log],
        }
    )


def loaded(cfg: SFTConfig, student: ModelRef) -> LanguageStudent:
    """The student as it is trained."""
    settings = StudentSettings(
        device=cfg.device,
        max_length=cfg.max_length,
        learn=cfg.learn,
        moments=False,
        placement="device",
        token_budget=1,  # of no use here, and a GPU's would be measured
        told=Told(adapter="merge"),
    )
    return load_student(student, settings)


def learnt(
    cfg: SFTConfig,
    encoded: Sequence[Encoded],
    held: LanguageStudent,
    *,
    work: Work,
) -> list[dict[str, float]]:
    """Trains the student in place; returns what was logged of each step.

    Args:
        cfg: the training.
        encoded: the rows that it learns.
        held: the student.
        work: keeps checkpoints, and the states that are wanted.

    Raises:
        UserError: no room for one example, or a loss that is not finite.
    """

    def keep(step: int, optimizer: torch.optim.Optimizer) -> None:
        save_with_optimizer(
            held.model,
            held.tokenizer,
            optimizer,
            work.folder(folder_of(step)),
            clip_norm=cfg.clip_norm,
            step=step,
            learning_rate=cfg.learning_rate,
        )

    steps = trainer.optimizer_steps(cfg, len(encoded))
    again = functools.partial(
        recomputed, held.model, cfg.gradient_checkpointing, "sft.gradient_checkpointing"
    )
    with trainer.off_screen():
        model: Any = held.model
        if cfg.method == "lora":
            model = with_adapter(model, rank=cfg.lora_rank, alpha=cfg.lora_alpha, seed=cfg.seed)
        model.train()
        learner = replace(held, compute=cfg.compute)
        with work.meter.phase("load"), again():
            tokens = budgets.of_training(learner, encoded, cfg.batch_size)
        training = trainer_of(cfg, encoded, learner, model, work, tokens)
        with (
            again(),
            work.meter.phase("train", items=len(encoded) * cfg.epochs, models=[held.model]),
        ):
            log = trainer.train(training, cfg, steps, work=work, keep=keep)
        if cfg.method == "lora":
            model.merge_and_unload()
    return log


def _within(rows: Sequence[Encoded], limit: int) -> list[Encoded]:
    """The first rows, at least one, that have so many response tokens together at most."""
    totals = accumulate(len(row.learned) for row in rows)
    return [
        row
        for n, (row, total) in enumerate(zip(rows, totals, strict=True))
        if not n or total <= limit
    ]


def trainer_of(
    cfg: SFTConfig,
    encoded: Sequence[Encoded],
    held: LanguageStudent,
    model: Any,
    work: Work,
    tokens: int,
) -> ResponseTrainer:
    """The trainer: as few passes a step as there is room for.

    Args:
        cfg: the training.
        encoded: the rows that it learns.
        held: the student, with the dtype of the training's products.
        model: whose weights learn, an adapter's or all of the student's.
        work: keeps checkpoints.
        tokens: most padded tokens in one pass.
    """
    told = trainer.arguments(cfg, len(encoded), cfg.batch_size, work)
    return ResponseTrainer(
        model,
        TrainingArguments(**told, remove_unused_columns=False),
        held=held,
        rows=encoded,
        tokens=tokens,
        most=cfg.micro_batch,
        hint=HINT,
    )
