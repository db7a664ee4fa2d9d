"""The student's warm-up, which gives it optimizer state."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers import get_constant_schedule_with_warmup

from influbench.data.records import Example, ModelRef
from influbench.errors import UserError
from influbench.files import digest
from influbench.models.halving import Halves, in_room
from influbench.store import Work
from influbench.student import LanguageStudent, StudentSettings, Told, budgets, load_student
from influbench.student.batch import TokenBatch
from influbench.training import trainer
from influbench.training.keeping import save_with_optimizer
from influbench.training.settings import WarmupConfig

HINT = "lower warmup.max_length, or set warmup.compute=bfloat16"
"""What a device that is too small needs."""


@dataclass
class _Progress:
    """A warm-up under way."""

    student: LanguageStudent
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    losses: list[float]
    """Mean loss of each step's batch so far, nats per response token."""
    halves: Halves = field(default_factory=lambda: Halves(HINT))


@in_room("warm-up", HINT)
def warm_up(
    cfg: WarmupConfig, examples: Sequence[Example], student: ModelRef, *, work: Work
) -> None:
    """Trains the student briefly and keeps its optimizer state, which the estimators step from.

    Of an adapter its own weights are trained. Leaves the folder ``student``: weights, tokenizer,
    ``optimizer.pt`` as a Hugging Face Trainer writes it, and ``warmup.json`` with the parameter
    names in the optimizer's order.

    Raises:
        UserError: fewer than two optimizer steps, or a loss that is not finite.
    """
    steps = math.ceil(len(examples) / cfg.batch_size) * cfg.epochs
    if steps < 2:
        raise UserError(
            f"warm-up: expected at least 2 optimizer steps, so that Adam has moments, got {steps} "
            f"from {len(examples)} examples in batches of {cfg.batch_size}: lower "
            "warmup.batch_size or give more examples"
        )
    settings = StudentSettings(
        device=cfg.device,
        compute=cfg.compute,
        max_length=cfg.max_length,
        learn=cfg.learn,
        token_budget=cfg.token_budget or budgets.ON_A_CPU,
        placement="device",
        moments=False,
        told=_kept(cfg.told),
    )
    with work.meter.phase("load"):
        held = load_student(student, settings)
        encoded = [held.encode(e) for e in examples]
        if cfg.token_budget is None:
            tokens = budgets.of_training(held, encoded, cfg.batch_size)
            held = replace(held, learning_budget=tokens)
    optimizer = torch.optim.AdamW(
        [weight for weight in held.model.parameters() if weight.requires_grad],
        lr=cfg.learning_rate,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.0,
    )
    schedule = get_constant_schedule_with_warmup(optimizer, num_warmup_steps=steps)
    progress = _Progress(held, optimizer, schedule, [])
    with work.meter.phase("train", items=len(examples) * cfg.epochs, models=[held.model]):
        _run(progress, cfg, list(_batches(cfg, examples)), work)
    cut = sum(row.cut for row in encoded)
    with work.meter.phase("save"):
        _save(progress, cfg, work.folder("student"))
    work.meta.update(steps=steps, loss=progress.losses, examples=len(examples), cut=cut)


def _kept(told: Told) -> Told:
    """An adapter is trained as one, unless it is to be merged."""
    return told if told.adapter == "merge" else told.model_copy(update={"adapter": "keep"})


def _batches(cfg: WarmupConfig, examples: Sequence[Example]) -> Iterator[list[Example]]:
    """The batches of all epochs, each in an order of its own that ids and seed fix."""
    for epoch in range(cfg.epochs):
        order = sorted(examples, key=lambda e: digest(f"{cfg.seed}:{epoch}:{e.id}"))
        for start in range(0, len(order), cfg.batch_size):
            yield order[start : start + cfg.batch_size]


def _run(
    progress: _Progress, cfg: WarmupConfig, batches: Sequence[Sequence[Example]], work: Work
) -> None:
    path = work.path / trainer.CHECKPOINTS / "warm_up.pt"
    if path.exists():
        _restore(progress, path)
    saved = time.monotonic()
    done = len(progress.losses)
    with work.progress.task(work.title, len(batches), done) as advance:
        for batch in batches[done:]:
            progress.losses.append(_step(progress, batch, cfg.clip_norm))
            advance(1)
            if time.monotonic() - saved >= cfg.checkpoint_seconds:
                _checkpoint(progress, path)
                work.meter.flush()
                saved = time.monotonic()


def _step(progress: _Progress, batch: Sequence[Example], clip_norm: float | None) -> float:
    """One optimizer step on the mean of the batch's per-example losses; returns that mean."""
    student, optimizer = progress.student, progress.optimizer
    optimizer.zero_grad()
    trained = [w for w in student.model.parameters() if w.requires_grad]
    total = 0.0
    for laid_out in student.batches(batch, learning=True):

        def derivative(rows: Sequence[int], whole: TokenBatch = laid_out) -> tuple[float, Any]:
            losses = student.loss(whole.take(rows))
            mean = losses.sum() / len(batch)
            gradients = torch.autograd.grad(mean, trained, allow_unused=True)
            return float(losses.detach().sum()), gradients

        for _, (part, gradients) in progress.halves(range(len(laid_out.rows)), derivative):
            trainer.add_gradients(trained, gradients)
            total += part
    weights = [w for w in student.model.parameters() if w.grad is not None]
    norm = torch.nn.utils.get_total_norm([w.grad for w in weights if w.grad is not None])
    rate = optimizer.param_groups[0]["lr"]
    if not math.isfinite(total) or not torch.isfinite(norm):
        raise UserError(
            f"warm-up step {len(progress.losses) + 1}: expected a finite loss and gradient, got a "
            f"loss of {total / len(batch)} and a gradient norm of {float(norm)} at learning rate "
            f"{rate:.3g} on {', '.join(e.id for e in batch)}: look at these, or lower "
            "warmup.learning_rate"
        )
    if clip_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(weights, clip_norm, norm)
    optimizer.step()
    progress.schedule.step()
    return total / len(batch)


def _checkpoint(progress: _Progress, path: Path) -> None:
    state = {
        "model": progress.student.model.state_dict(),
        "optimizer": progress.optimizer.state_dict(),
        "schedule": progress.schedule.state_dict(),
        "losses": progress.losses,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def _restore(progress: _Progress, path: Path) -> None:
    state = torch.load(path, map_location=progress.student.model.device, weights_only=True)
    progress.student.model.load_state_dict(state["model"])
    progress.optimizer.load_state_dict(state["optimizer"])
    progress.schedule.load_state_dict(state["schedule"])
    progress.losses[:] = state["losses"]


def _save(progress: _Progress, cfg: WarmupConfig, folder: Path) -> None:
    student = progress.student
    save_with_optimizer(
        student.model,
        student.tokenizer,
        progress.optimizer,
        folder,
        clip_norm=cfg.clip_norm,
        step=len(progress.losses),
    )
