"""Checkpoints by the Hugging Face Trainer, and by how much one more step of it helps.

Nothing here comes from influbench but tiny models to start from.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

from influbench.data.records import Example

STEPS = 3
RATE = 1e-3


@dataclass
class Trained:
    """A finished training: what it left on disk, and what it had in memory."""

    folder: Path
    """The checkpoint of its last step."""
    model: Any
    """In fp32, eager attention."""
    tokenizer: Any
    state: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By name: the optimizer's entry of each trained weight, and its weight decay."""

    def influences(
        self,
        candidates: Sequence[Example],
        references: Sequence[Example],
        *,
        clip: float | None = 1.0,
        rate: float = RATE,
    ) -> list[float]:
        """By how much one AdamW step lowers the mean reference loss, against an empty step."""

        def after(candidate: Example | None) -> float:
            model = copy.deepcopy(self.model)
            weights = dict(model.named_parameters())
            held = [weights[name] for name in self.state]
            for weight in weights.values():
                weight.requires_grad_(any(weight is own for own in held))
            optimizer = torch.optim.AdamW(
                [
                    {"params": [weights[n]], "weight_decay": s["weight_decay"]}
                    for n, s in self.state.items()
                ],
                lr=rate,
            )
            for name, own in self.state.items():
                kept = {k: v for k, v in own.items() if k != "weight_decay"}
                optimizer.state[weights[name]] = copy.deepcopy(kept)
            for weight in held:
                weight.grad = torch.zeros_like(weight)
            if candidate is not None:
                self.loss(model, candidate).backward()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(held, clip)
            optimizer.step()
            with torch.no_grad():
                return sum(float(self.loss(model, r)) for r in references) / len(references)

        null = after(None)
        return [null - after(candidate) for candidate in candidates]

    def loss(self, model: Any, example: Example) -> torch.Tensor:
        """Mean negative log-likelihood of the response and its end of turn, by the template."""
        ids, start = rows(self.tokenizer, example)
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, start - 1 : -1]
        return torch.nn.functional.cross_entropy(logits.double(), torch.tensor(ids[start:]))


def rows(tokenizer: Any, example: Example) -> tuple[list[int], int]:
    """Ids up to the end of turn, and where the response begins."""
    turns = [{"role": r, "content": t} for r, t in example.turns]
    whole = tokenizer.apply_chat_template(turns, tokenize=False).rstrip()
    prompt = tokenizer.apply_chat_template(turns[:-1], tokenize=False, add_generation_prompt=True)
    ids = tokenizer(whole, add_special_tokens=False).input_ids
    return ids, len(tokenizer(prompt, add_special_tokens=False).input_ids)


def trained(
    folder: Path,
    base: Path,
    examples: Sequence[Example],
    *,
    prepare: Callable[[Any], Any] = lambda model: model,
    trainer: type[Trainer] = Trainer,
    **arguments: Any,
) -> Trained:
    """Trains a few steps, one example each.

    Args:
        folder: of the run; the checkpoint is in it.
        base: the model to start from.
        examples: what it learns.
        prepare: freezes weights, or adds an adapter; returns the model.
        trainer: another Trainer, for rules of others.
        **arguments: over those of the Trainer.
    """
    tokenizer = AutoTokenizer.from_pretrained(base)
    found = AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager")
    model = prepare(found.float())
    learnt = []
    for example in examples:
        ids, start = rows(tokenizer, example)
        learnt.append({"input_ids": ids, "labels": [-100] * start + ids[start:]})
    told: Mapping[str, Any] = {
        "per_device_train_batch_size": 1,
        "max_steps": STEPS,
        "save_steps": STEPS,
        "learning_rate": RATE,
        "weight_decay": 0.1,
        "lr_scheduler_type": "constant",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "logging_steps": 1,
        **arguments,
    }
    job = trainer(
        model=model,
        args=TrainingArguments(output_dir=str(folder), **told),
        train_dataset=learnt,  # pyright: ignore[reportArgumentType]
        processing_class=tokenizer,
    )
    job.train()
    names = {id(p): n for n, p in job.model.named_parameters()}  # pyright: ignore[reportOptionalMemberAccess]
    optimizer: Any = getattr(job.optimizer, "optimizer", job.optimizer)
    state = {
        names[id(p)]: {**optimizer.state.get(p, {}), "weight_decay": group["weight_decay"]}
        for group in optimizer.param_groups
        for p in group["params"]
    }
    return Trained(folder / f"checkpoint-{STEPS}", model.eval(), tokenizer, state)
