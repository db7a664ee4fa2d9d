"""The teacher's training: DPO on how it writes instructions (Hugging Face Trainer, peft)."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import TrainingArguments

from influbench import models
from influbench.data.records import ModelRef, Pair
from influbench.errors import UserError
from influbench.files import digest
from influbench.models.chat import without_template
from influbench.models.halving import in_room
from influbench.store import Work
from influbench.training import trainer
from influbench.training.keeping import folder_of
from influbench.training.low_memory import recomputed, with_adapter
from influbench.training.pair_tokens import PairTokens, tokenise
from influbench.training.preference_trainer import (
    DEVICE_TOKENS,
    HINT,
    PreferenceTrainer,
    Reader,
    loss,
    summary,
)
from influbench.training.settings import DPOStageConfig

LN2_TOLERANCE = {"float32": 1e-4, "bfloat16": 1e-2}
"""How far the first loss may be from ln 2, where teacher and reference are still the same model.

On a CPU both come from the same pass; on a GPU a pair has other neighbours in the two, and ten
times as much is allowed."""


@dataclass(frozen=True)
class Lesson:
    """The pairs of a training, split and tokenised."""

    learn: Sequence[Pair]
    held_out: Sequence[Pair]
    tokens: Mapping[str, PairTokens]
    """By the pair's id."""


@in_room("DPO", HINT)
def dpo(cfg: DPOStageConfig, pairs: Sequence[Pair], teacher: ModelRef, *, work: Work) -> None:
    """Trains the teacher to prefer the chosen completions; leaves the folder ``teacher``.

    LoRA weights are merged into the saved model, and into those kept on the way. ``work.meta`` gets
    losses, rewards and margins by step and, under ``held_out``, over the pairs that were not
    trained on; ``equal_pairs`` were dropped, since nothing tells their completions apart within the
    length.

    Raises:
        UserError: no pairs, a prompt without room for a completion, or a loss that is not finite.
    """
    if not pairs:
        raise UserError(
            "DPO: expected at least one preference pair, got none: preferences.rule found no two "
            "candidates of one seed prompt to tell apart; use preferences.rule=best_worst or rank, "
            "or more candidates per seed prompt"
        )
    with work.meter.phase("load"):
        loaded = models.load(teacher, dtype="float32", device=cfg.device)
    _without_dropout(loaded.model)
    length = min(cfg.max_length, models.context_length(loaded.model))
    if cfg.no_chat_template:
        pairs = [
            replace(pair, prompt=without_template(loaded.tokenizer, pair.prompt), prompt_ids=())
            for pair in pairs
        ]
    tokens = {pair.id: tokenise(loaded.tokenizer, pair, length) for pair in pairs}
    if len(tokens) != len(pairs):
        raise UserError(f"DPO: expected unique ids, got {len(tokens)} ids for {len(pairs)} pairs")
    given, cut = len(pairs), sum(t.cut for t in tokens.values())
    pairs = [pair for pair in pairs if tokens[pair.id].chosen != tokens[pair.id].rejected]
    if not pairs:
        raise UserError(
            f"DPO: chosen and rejected are the same {length} tokens in all {given} pairs, so there "
            "is nothing to prefer: raise dpo.max_length"
        )
    if cut and cfg.overlong == "refuse":
        raise UserError(
            f"DPO: {cut} of {given} pairs have more than {length} tokens: raise "
            "dpo.max_length, or set dpo.overlong=cut"
        )
    lesson = Lesson(*split(pairs, cfg.held_out, cfg.seed), tokens)
    log, evaluation = _teach(cfg, lesson, loaded, work)
    work.meta.update(
        {
            "pairs": given,
            "equal_pairs": given - len(pairs),
            "learned_pairs": len(lesson.learn),
            "cut": cut,
            "steps": len(log),
            "loss": [row["loss"] for row in log],
            "learning_rate": [row["learning_rate"] for row in log],
            "reward_accuracy": [row["rewards/accuracies"] for row in log],
            "reward_margin": [row["rewards/margins"] for row in log],
            "chosen_log_ratio": [row["rewards/chosen"] / cfg.beta for row in log],
            "rejected_log_ratio": [row["rewards/rejected"] / cfg.beta for row in log],
            "held_out": evaluation,
        }
    )


def split(pairs: Sequence[Pair], share: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Pairs to learn from and pairs held out; all pairs of a seed prompt are on one side.

    Any share above 0 holds out at least one group, and at least one is left to learn from.
    """
    groups = sorted({pair.group for pair in pairs}, key=lambda g: digest(f"{seed}:{g}"))
    count = min(max(1, round(share * len(groups))), len(groups) - 1) if share else 0
    held = set(groups[:count])
    return [p for p in pairs if p.group not in held], [p for p in pairs if p.group in held]


def _teach(
    cfg: DPOStageConfig, lesson: Lesson, loaded: models.LoadedModel, work: Work
) -> tuple[list[dict[str, float]], dict[str, float]]:
    """Trains ``loaded`` in place and saves it; what was logged by step, and the evaluation."""
    device = loaded.model.device.type
    tolerance = LN2_TOLERANCE[cfg.compute] * (10 if device == "cuda" else 1)
    check = functools.partial(_check_first_loss, tolerance=tolerance)
    steps = trainer.optimizer_steps(cfg, len(lesson.learn))
    used = [loaded.model]
    reader = Reader(*loaded, cfg.compute)
    learn, held_out = (
        [lesson.tokens[pair.id] for pair in side] for side in (lesson.learn, lesson.held_out)
    )
    with trainer.off_screen():
        with work.meter.phase("reference", items=len(lesson.tokens), models=used):
            # Before its training the teacher is its own reference, and an adapter changes nothing.
            before = reader.measured(learn, cfg.micro_batch)
            before_held_out = reader.measured(held_out, cfg.micro_batch)
        model: Any = loaded.model
        if cfg.method == "lora":
            model = with_adapter(
                loaded.model, rank=cfg.lora_rank, alpha=cfg.lora_alpha, seed=cfg.seed
            )
        training = PreferenceTrainer(
            model,
            TrainingArguments(
                **trainer.arguments(
                    cfg, len(learn), trainer.divisor(cfg.batch_size, cfg.micro_batch), work
                ),
                remove_unused_columns=False,
            ),
            reader=reader,
            pairs=learn,
            reference=before,
            beta=cfg.beta,
            tokenizer=loaded.tokenizer,
            tokens=DEVICE_TOKENS if device == "cuda" else None,
        )

        def keep(step: int, _: torch.optim.Optimizer) -> None:
            if step == steps:
                return  # the folder ``teacher``
            lora = cfg.method == "lora"
            # Merged in a copy: taken out again, the adapter would leave other last bits behind.
            whole: Any = copy.deepcopy(model).merge_and_unload() if lora else loaded.model  # type: ignore[operator]  # a PeftModel
            models.save(whole, loaded.tokenizer, work.folder(folder_of(step)))

        with (
            recomputed(loaded.model, cfg.gradient_checkpointing, "dpo.gradient_checkpointing"),
            work.meter.phase("train", items=len(learn) * cfg.epochs, models=used),
        ):
            log = trainer.train(training, cfg, steps, work=work, keep=keep, check=check)
        with work.meter.phase("evaluate", items=len(held_out), models=used):
            loaded.model.eval()
            after = reader.measured(held_out, cfg.micro_batch)
        if cfg.method == "lora":
            model.merge_and_unload()  # a PeftModel
        with work.meter.phase("save"):
            models.save(loaded.model, loaded.tokenizer, work.folder("teacher"))
    return log, _evaluation(lesson.held_out, after, before_held_out, cfg.beta)


def _without_dropout(model: torch.nn.Module) -> None:
    """As DPO is done (TRL's default too): the reference is the same function as the teacher."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


def _check_first_loss(step: int, logs: Mapping[str, float], *, tolerance: float) -> None:
    assert step > 1 or abs(logs["loss"] - math.log(2)) < tolerance, (
        f"first DPO loss is {logs['loss']}, not ln 2: the reference is not the starting teacher"
    )


def _evaluation(
    held_out: Sequence[Pair], after: torch.Tensor, before: torch.Tensor, beta: float
) -> dict[str, float]:
    """Loss, reward accuracy and margin, each a mean over the pairs held out, if any."""
    if not held_out:
        return {}
    values, rewards = loss(after, before, beta)
    accuracy, margin, _, _ = summary(rewards)
    return {
        "pairs": len(held_out),
        "groups": len({pair.group for pair in held_out}),
        "loss": float(values.mean()),
        "reward_accuracy": accuracy,
        "reward_margin": margin,
    }
