"""SFT on a Hugging Face Trainer whose passes hold as many rows as the device has room for.

The loss is the one of TRL's trainer, which a CPU uses: the mean over all response tokens of an
optimizer step's rows. Here logits exist at response tokens only, rows of like length stand in one
pass, and one that runs out of memory is halved without a part of its gradient being left behind.
How rows are cut moves last bits of the weights, as the device itself does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from influbench.models.halving import Halves
from influbench.student import LanguageStudent
from influbench.student.batch import TokenBatch
from influbench.student.losses import Encoded
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
        learned = sum(len(row.learned) for row in rows)
        most = self._most or len(rows)
        total = 0.0
        for start in range(0, len(rows), most):
            for batch in self._held.laid_out(rows[start : start + most], self._tokens):

                def derivative(
                    positions: Sequence[int], whole: TokenBatch = batch
                ) -> tuple[float, Any]:
                    part = whole.take(positions)
                    counts = [len(row.learned) / learned for row in part.rows]
                    losses = self._held.loss(part)
                    value = (losses * losses.new_tensor(counts)).sum()
                    gradients = torch.autograd.grad(value, weights, allow_unused=True)
                    return float(value.detach()), gradients

                for _, (value, gradients) in self._halves(range(len(batch.rows)), derivative):
                    add_gradients(weights, gradients)
                    total += value
        return torch.tensor(total, device=self.args.device)


def _positions(rows: Sequence[Mapping[str, int]]) -> dict[str, torch.Tensor]:
    return {"row": torch.tensor([row["row"] for row in rows])}
