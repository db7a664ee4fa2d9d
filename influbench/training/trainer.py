"""The Hugging Face Trainer as our stages use it: quiet, watched, resumable, one device."""

from __future__ import annotations

import logging
import math
import shutil
import time
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from influbench import models
from influbench.errors import UserError
from influbench.models.quiet import quiet
from influbench.store import Work
from influbench.terminal.progress import Advance
from influbench.training.keeping import KEPT, Keep, kept_steps
from influbench.training.settings import TrainingConfig

CHECKPOINTS = "scratch/checkpoints"
"""In the entry's folder: kept after a kill, removed by the store when the entry is whole."""
COMPLETE = "complete"
"""Marks a checkpoint folder whose every file was written."""

Check = Callable[[int, Mapping[str, float]], None]
"""Called with the step just done and what the trainer logged of it."""


def add_gradients(
    weights: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor | None]
) -> None:
    """Adds to ``.grad`` as ``backward`` does; None is a weight that had no part."""
    for weight, gradient in zip(weights, gradients, strict=True):
        if gradient is not None:
            weight.grad = gradient if weight.grad is None else weight.grad.add_(gradient)


def optimizer_steps(cfg: TrainingConfig, rows: int) -> int:
    """Optimizer steps of the whole training; the last batch of an epoch may be smaller."""
    return math.ceil(rows / cfg.batch_size) * cfg.epochs


def divisor(batch_size: int, most: int) -> int:
    """The largest number of rows up to ``most`` that divides a batch evenly."""
    return max(d for d in range(1, min(batch_size, most) + 1) if batch_size % d == 0)


def arguments(cfg: TrainingConfig, rows: int, micro_batch: int, work: Work) -> dict[str, Any]:
    """The ``TrainingArguments`` of a training, by name.

    Args:
        cfg: the training.
        rows: training rows.
        micro_batch: rows in one forward pass; divides ``cfg.batch_size``.
        work: keeps the checkpoints.
    """
    cpu = models.device_of(cfg.device) == "cpu"
    return {
        "output_dir": str(work.path / CHECKPOINTS),
        "learning_rate": cfg.learning_rate,
        "weight_decay": cfg.weight_decay,
        "max_grad_norm": cfg.clip_norm,
        "num_train_epochs": cfg.epochs,
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": cfg.batch_size // micro_batch,
        "seed": cfg.seed,
        "data_seed": cfg.seed,
        "use_cpu": cpu,
        "bf16": cfg.compute == "bfloat16",
        "activation_checkpointing": False,
        "use_cache": True,  # else the saved configuration says False and generation crawls
        "optim": "adamw_torch_fused",
        "report_to": "none",
        "disable_tqdm": True,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "dataloader_pin_memory": not cpu,
        **cfg.schedule.arguments(optimizer_steps(cfg, rows)),
    }


class Watch(TrainerCallback):
    """Reports progress, looks at every logged loss, and checkpoints by the clock."""

    def __init__(
        self, work: Work, advance: Advance, check: Check, checkpoint_seconds: float
    ) -> None:
        self.work, self.advance, self.check, self.every = work, advance, check, checkpoint_seconds
        self.saved = time.monotonic()

    def on_step_end(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Asks for a checkpoint when the last one is old enough, except after the last step."""
        self.advance(1)
        late = time.monotonic() - self.saved >= self.every
        control.should_save = late and state.global_step < state.max_steps

    def on_log(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **kwargs: Any,
    ) -> None:
        """Stops a training whose numbers are not finite."""
        logs = kwargs["logs"]
        if "loss" not in logs:
            return
        for name in ("loss", "grad_norm"):
            if not math.isfinite(logs[name]):
                raise UserError(
                    f"{self.work.title}: {name} is {logs[name]} at step {state.global_step} of "
                    f"{state.max_steps} (learning rate {logs['learning_rate']:.3g}): expected a "
                    "finite number; lower learning_rate, or set compute=float32"
                )
        self.check(state.global_step, logs)

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Marks the checkpoint whole, and only then removes the one before."""
        assert args.output_dir is not None
        folder = Path(args.output_dir)
        whole = folder / f"checkpoint-{state.global_step}"
        (whole / COMPLETE).touch()
        for other in folder.glob("checkpoint-*"):
            if other != whole:
                shutil.rmtree(other)
        self.work.meter.flush()
        self.saved = time.monotonic()


class Keeper(TrainerCallback):
    """Has the state kept after each of some steps.

    It does so before the Trainer's own checkpoint of that step is written, so that a training which
    goes on after a kill finds every state that it does not come past again.
    """

    def __init__(self, steps: list[int], keep: Keep) -> None:
        self.steps, self.keep = frozenset(steps), keep

    def on_step_end(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **kwargs: Any,
    ) -> None:
        """Keeps the state if it is one of those wanted."""
        if state.global_step in self.steps:
            self.keep(state.global_step, kwargs["optimizer"])


def _no_check(step: int, logs: Mapping[str, float]) -> None:
    """Accepts every step."""


def train(
    training: Trainer,
    cfg: TrainingConfig,
    steps: int,
    *,
    work: Work,
    keep: Keep,
    check: Check = _no_check,
) -> list[dict[str, float]]:
    """Trains from the last whole checkpoint, or from the start.

    Args:
        training: ready to go.
        cfg: its settings.
        steps: optimizer steps of the whole training.
        work: keeps the checkpoints.
        keep: called after the steps whose states ``cfg.keep_checkpoints`` wants.
        check: looks at what is logged of each step.

    Returns:
        What was logged of each of the ``steps`` optimizer steps, those before a kill included.
    """
    assert training.args.output_dir is not None
    folder = Path(training.args.output_dir)
    last, done = _last_checkpoint(folder)
    training.remove_callback(PrinterCallback)
    if cfg.keep_checkpoints:
        wanted = kept_steps(steps, cfg.keep_checkpoints)
        training.add_callback(Keeper(wanted, keep))
        work.meta[KEPT] = wanted
    with work.progress.task(work.title, steps, done) as advance:
        training.add_callback(Watch(work, advance, check, cfg.checkpoint_seconds))
        training.train(resume_from_checkpoint=last)
    assert training.state.global_step == steps, (training.state.global_step, steps)
    return [row for row in training.state.log_history if "loss" in row]


def _last_checkpoint(folder: Path) -> tuple[str | None, int]:
    """The last whole checkpoint and the optimizer steps done in it."""
    whole = [mark.parent for mark in folder.glob(f"checkpoint-*/{COMPLETE}")]
    if not whole:
        return None, 0
    steps = {int(path.name.removeprefix("checkpoint-")): path for path in whole}
    done = max(steps)
    return str(steps[done]), done


@contextmanager
def off_screen() -> Generator[None]:
    """Keeps bars, tables and hints of the libraries off the user's screen; errors still show."""
    loggers = [logging.getLogger(name) for name in ("accelerate", "peft")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with quiet(), warnings.catch_warnings():
            # Among themselves: what one library calls that another will rename.
            warnings.filterwarnings(
                "ignore", category=FutureWarning, module=r"(transformers|peft)\b"
            )
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
