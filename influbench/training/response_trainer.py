"""SFT on a Hugging Face Trainer whose passes hold as many rows as the device has room for.

The loss is the one of TRL's trainer, the mean over all response tokens of an optimizer step's rows.
Here logits exist at response tokens only, rows of like length stand in one pass, and one that runs
out of memory is halved without a part of its gradient being left behind. How rows are cut moves
last bits of the weights, as the device itself does. ``python -m benchmarks.sft`` compares the two.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from influbench.models.halving import Halves
from influbench.student import LanguageStudent
from influbench.student.batch import TokenBatch
from influbench.student.losses import Encoded
from influbench.training.replaying import (
    Batch,
    Found,
    Replayed,
    Shape,
    by_weight,
    pays,
    summed,
    token_nll,
)
from influbench.training.trainer import add_gradients


class ResponseTrainer(Trainer):
    """Trains a student on rows; its dataset is their positions, a batch those of a whole step."""

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        *,
        held: LanguageStudent,
        rows: Sequence[Encoded],
        tokens: int,
        most: int | None,
        hint: str,
    ) -> None:
        """Prepares a training.

        Args:
            model: whose weights learn, an adapter's or all of the student's.
            args: of the Trainer; a batch on the device is one of the training.
            held: the student, with the dtype of the training's products.
            rows: what is learnt.
            tokens: most padded tokens in one pass.
            most: most rows in one pass.
            hint: what to do where not even one row fits.
        """
        numbers: Any = [{"row": n} for n in range(len(rows))]  # a list is Dataset enough
        super().__init__(
            model=model,
            args=args,
            train_dataset=numbers,
            data_collator=_positions,
            processing_class=held.tokenizer,
        )
        self._held, self._rows, self._tokens, self._most = held, rows, tokens, most
        self._halves = Halves(hint)
        self._shape, self._replayed = None, None
        if most is None or most >= args.per_device_train_batch_size:
            self._shape = Shape.of(rows, args.per_device_train_batch_size)
            steps = math.ceil(len(rows) / args.per_device_train_batch_size)
            if pays(held, self._shape, steps * math.ceil(args.num_train_epochs), tokens):
                self._replayed = Replayed(held, functools.partial(self._computed, model))

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor | Any],
        num_items_in_batch: torch.Tensor | int | None = None,  # noqa: ARG002  # counted here
    ) -> torch.Tensor:
        """The gradient of a step's mean loss; returns that loss."""
        model.train()
        rows = [self._rows[n] for n in inputs["row"].tolist()]
        weights = [weight for weight in model.parameters() if weight.requires_grad]

        def usual() -> Found:
            return self._in_passes(model, rows)

        if self._replayed is None:
            told, gradients = usual()
        else:
            told, gradients = self._replayed(self._laid_out(rows), len(rows), usual)
        add_gradients(weights, gradients)
        return told[0].float()

    def _in_passes(self, model: torch.nn.Module, rows: Sequence[Encoded]) -> Found:
        """A step's mean loss and its gradient."""
        learned = sum(len(row.learned) for row in rows)
        most = self._most or len(rows)

        def derivative(batch: TokenBatch, positions: Sequence[int]) -> Found:
            part = batch.take(positions)
            counts = [len(row.learned) / learned for row in part.rows]
            losses = self._held.loss(part)
            value = (losses * losses.new_tensor(counts)).sum()
            return (value.detach(),), by_weight(value, model)

        told, gradient = summed(
            found
            for start in range(0, len(rows), most)
            for batch in self._held.laid_out(rows[start : start + most], self._tokens)
            for _, found in self._halves(
                range(len(batch.rows)), functools.partial(derivative, batch)
            )
        )
        return (torch.stack([value for (value,) in told]).sum(),), gradient

    def _laid_out(self, rows: Sequence[Encoded]) -> dict[str, torch.Tensor]:
        """The rows at the size of every step."""
        assert self._shape is not None
        learned = sum(len(row.learned) for row in rows)
        return {**self._shape.laid_out(rows), "share": torch.tensor(1 / learned).double()}

    def _computed(self, model: torch.nn.Module, batch: Batch) -> Found:
        """What ``_in_passes`` finds, in operations of fixed size."""
        value = token_nll(self._held, batch).double().sum() * batch["share"]
        return (value.detach(),), by_weight(value, model)


def _positions(rows: Sequence[Mapping[str, int]]) -> dict[str, torch.Tensor]:
    return {"row": torch.tensor([row["row"] for row in rows])}
