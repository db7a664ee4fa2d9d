"""The teacher's training: DPO on how it writes instructions (TRL, peft)."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import datasets
from pydantic import Field
from transformers import PreTrainedModel

from influbench import models
from influbench.errors import UserError
from influbench.files import digest
from influbench.models.chat import without_template
from influbench.records import ModelRef, Pair
from influbench.store import Stage, Work
from influbench.training import trainer
from influbench.training.pair_tokens import PairTokens, tokenise
from influbench.training.schedule import Schedule
from influbench.training.trainer import TrainingConfig, TrainingSettings

if TYPE_CHECKING:  # seconds of imports, which a run whose stages are all cached does not need
    from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer

LN2_TOLERANCE = {"float32": 1e-4, "bfloat16": 1e-2}
"""How far the first loss may be from ln 2, where teacher and reference are still the same model."""


class DPOSettings(TrainingSettings):
    """How the teacher is trained; the defaults are the paper's."""

    learning_rate: float = Field(default=1e-6, gt=0)
    schedule: Schedule = Schedule()
    batch_size: int = Field(default=2, ge=1, description="pairs in one optimizer step")
    micro_batch: int = Field(default=2, ge=1, description="most pairs in one forward pass")
    beta: float = Field(default=0.1, gt=0)
    method: Literal["full", "lora"] = "full"
    lora_rank: int = Field(default=8, ge=1)
    lora_alpha: int = Field(default=16, ge=1)
    reference: Literal["live", "precomputed"] = Field(
        default="live",
        description="live: a frozen copy beside the teacher sees the very same batches (LoRA: no "
        "copy, the adapter is off); precomputed: one pass before training, saves the copy's memory",
    )
    no_chat_template: bool = Field(
        default=False,
        description="train on the bare user turn, without the chat template that the teacher is "
        "sampled with; the released code's quirk",
    )
    held_out: float = Field(
        default=0.01,
        ge=0,
        lt=1,
        description="share of seed prompts whose pairs are only evaluated on",
    )


class DPOStageConfig(DPOSettings, TrainingConfig):
    """The stage's: with what a run says once."""


@dataclass(frozen=True)
class Lesson:
    """The pairs of a training, split and tokenised."""

    learn: Sequence[Pair]
    held_out: Sequence[Pair]
    tokens: Mapping[str, PairTokens]
    """By the pair's id."""


def dpo(cfg: DPOStageConfig, pairs: Sequence[Pair], teacher: ModelRef, *, work: Work) -> None:
    """Trains the teacher to prefer the chosen completions; leaves the folder ``teacher``.

    LoRA weights are merged into the saved model. ``work.meta`` gets losses, rewards and margins by
    step and, under ``held_out``, over the pairs that were not trained on; ``equal_pairs`` were
    dropped, since nothing tells their completions apart within the length.

    Raises:
        UserError: no pairs, a prompt without room for a completion, or a loss that is not finite.
    """
    if not pairs:
        raise UserError(
            "DPO: expected at least one preference pair, got none: preferences.rule found no two "
            "candidates of one seed prompt to tell apart; use preferences.rule=best_worst or rank, "
            "or more candidates per seed prompt"
        )
    loaded = models.load(teacher, dtype="float32", device=cfg.device)
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
    reference = None
    if cfg.method == "full" and cfg.reference == "live":
        # Handed over: TRL would read it from wherever the model's configuration says.
        reference = models.load(teacher, dtype="float32", device=cfg.device).model
    log, evaluation = _teach(cfg, lesson, loaded, reference, work)
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


def collate(
    rows: Sequence[Mapping[str, Any]],
    *,
    tokens: Mapping[str, PairTokens],
    collator: DataCollatorForPreference,
) -> dict[str, Any]:
    """TRL's batch of our tokens.

    TRL tokenises prompt + completion as one text: at the boundary tokens then merge which
    the teacher never saw together, and the prompt gets special tokens twice.
    """
    ours = [tokens[row["pair"]] for row in rows]
    return collator(
        [
            {**row, "prompt_ids": t.prompt, "chosen_ids": t.chosen, "rejected_ids": t.rejected}
            for row, t in zip(rows, ours, strict=True)
        ]
    )


def _teach(
    cfg: DPOStageConfig,
    lesson: Lesson,
    loaded: models.LoadedModel,
    reference: PreTrainedModel | None,
    work: Work,
) -> tuple[list[dict[str, float]], dict[str, float]]:
    """Trains ``loaded`` in place and saves it; what was logged by step, and the evaluation."""
    from peft import PeftModel
    from peft.tuners.lora import LoraModel

    check = functools.partial(_check_first_loss, compute=cfg.compute)
    steps = trainer.optimizer_steps(cfg, len(lesson.learn))
    used = [loaded.model] if reference is None else [loaded.model, reference]
    with trainer.off_screen():
        with work.meter.phase("prepare", models=used):
            training = _dpo_trainer(cfg, lesson, loaded, reference, work)
        with work.meter.phase("train", items=len(lesson.learn) * cfg.epochs, models=used):
            log = trainer.train(training, cfg, steps, work=work, check=check)
        with work.meter.phase("evaluate", items=len(lesson.held_out), models=used):
            evaluation = _evaluate(training, lesson.held_out)
        if isinstance(training.model, PeftModel):
            assert isinstance(training.model.base_model, LoraModel)
            training.model.base_model.merge_and_unload()
        models.save(loaded.model, loaded.tokenizer, work.folder("teacher"))
    return log, evaluation


def _dpo_trainer(
    cfg: DPOStageConfig,
    lesson: Lesson,
    loaded: models.LoadedModel,
    reference: PreTrainedModel | None,
    work: Work,
) -> DPOTrainer:
    from peft import LoraConfig
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer

    micro_batch = trainer.divisor(cfg.batch_size, cfg.micro_batch)
    settings = DPOConfig(
        **trainer.arguments(cfg, len(lesson.learn), micro_batch, work),
        beta=cfg.beta,
        # Cut by ``tokenise``: with a length TRL would drop rows without a word.
        max_length=None,
        per_device_eval_batch_size=1,  # its metrics are means of batch means
        precompute_ref_log_probs=cfg.method == "full" and reference is None,
        precompute_ref_batch_size=micro_batch,
        remove_unused_columns=False,  # keeps ``pair``, which ``collate`` looks tokens up by
    )
    lora = LoraConfig(
        r=cfg.lora_rank,
        lora_alpha=cfg.lora_alpha,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    pad = loaded.tokenizer.pad_token_id
    assert isinstance(pad, int)
    collator = DataCollatorForPreference(pad_token_id=pad)
    training = DPOTrainer(
        model=loaded.model,
        ref_model=reference,
        args=settings,
        data_collator=functools.partial(collate, tokens=lesson.tokens, collator=collator),
        train_dataset=_dataset(lesson.learn),
        eval_dataset=_dataset(lesson.held_out) if lesson.held_out else None,
        processing_class=loaded.tokenizer,
        peft_config=lora if cfg.method == "lora" else None,
    )
    kept = training.train_dataset
    assert isinstance(kept, datasets.Dataset)
    assert list(kept["pair"]) == [p.id for p in lesson.learn], "TRL has dropped pairs"
    return training


def _dataset(pairs: Sequence[Pair]) -> datasets.Dataset:
    return datasets.Dataset.from_list(
        [
            {"pair": p.id, "prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected}
            for p in pairs
        ]
    )


def _check_first_loss(step: int, logs: Mapping[str, float], *, compute: str) -> None:
    assert step > 1 or abs(logs["loss"] - math.log(2)) < LN2_TOLERANCE[compute], (
        f"first DPO loss is {logs['loss']}, not ln 2: the reference is not the starting teacher"
    )


def _evaluate(training: DPOTrainer, held_out: Sequence[Pair]) -> dict[str, float]:
    """Loss, reward accuracy and margin, each a mean over the pairs held out, if any."""
    if not held_out:
        return {}
    metrics = training.evaluate()
    return {
        "pairs": len(held_out),
        "groups": len({pair.group for pair in held_out}),
        "loss": metrics["eval_loss"],
        "reward_accuracy": metrics["eval_rewards/accuracies"],
        "reward_margin": metrics["eval_rewards/margins"],
    }


DPO = Stage("dpo", 2, dpo)
