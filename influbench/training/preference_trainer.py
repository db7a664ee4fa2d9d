"""DPO on a Hugging Face Trainer whose passes read the prompt of a pair once.

The loss is that of Rafailov et al. (arXiv 2305.18290, equation 7). Chosen and rejected completion
share the prompt, which is most of a pair: both stand in one packed row after it, logits exist at
completion tokens only, and what the teacher says before its training is the reference, so that no
second model is held. ``python -m benchmarks.dpo`` compares it with TRL's trainer.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments

from influbench.models.halving import Halves
from influbench.student import Compute, losses, packing
from influbench.student.language_student import LanguageStudent
from influbench.student.losses import Encoded, padded, response_positions
from influbench.training.pair_tokens import PairTokens
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

DEVICE_TOKENS = 1 << 13
"""Padded tokens of the pairs in one pass on a GPU, where starting a pass of one pair takes longer
than the pass; without gradients four times as many."""

METRICS = ("rewards/accuracies", "rewards/margins", "rewards/chosen", "rewards/rejected")


HINT = "lower dpo.max_length, or set dpo.method=lora or dpo.compute=bfloat16"
"""What a device that is too small needs."""


class Reader:
    """A model that says how likely it finds the completions of pairs."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, compute: Compute
    ) -> None:
        pad = tokenizer.pad_token_id
        assert isinstance(pad, int)
        self._packs = packing.works(model)
        # On a CPU a batch wins nothing, and a pair's last digits would depend on its neighbours.
        self._together = model.device.type != "cpu"
        self._pad = pad
        # A student without optimizer: what is wanted is how it goes through a model.
        self.student = LanguageStudent(
            model=model,
            tokenizer=tokenizer,
            optimizer=torch.optim.SGD(model.parameters()),
            clip_norm=None,
            max_length=0,
            cut=False,
            token_budget=0,
            compute=compute,
        )

    def log_probabilities(self, pairs: Sequence[PairTokens]) -> torch.Tensor:
        """Of chosen and rejected after the prompt, in nats, shape [pair, 2], fp32."""
        if self._packs and not self._together:
            return torch.stack([self._of(_rows(pair)) for pair in pairs])
        return self._of([row for pair in pairs for row in _rows(pair)]).view(-1, 2)

    @torch.no_grad()
    def measured(self, pairs: Sequence[PairTokens], at_once: int) -> torch.Tensor:
        """The same of many, on the CPU: in the batches of the training, or as a GPU has room."""
        parts = [pairs[start : start + at_once] for start in range(0, len(pairs), at_once)]
        if self._together:
            parts = within(pairs, 4 * DEVICE_TOKENS)
        halves = Halves(HINT)
        found = [
            numbers.cpu() for part in parts for _, numbers in halves(part, self.log_probabilities)
        ]
        return torch.cat(found) if found else torch.zeros(0, 2)

    def _of(self, rows: Sequence[Encoded]) -> torch.Tensor:
        student = self.student
        device = student.model.device
        row, time, targets = response_positions(rows, device)
        with student.precision():
            if self._packs:
                layout = packing.packing(rows, device)
                hidden = packing.hidden(student.model, layout)[layout.place[row, time]]
            else:
                hidden = student.hidden(padded(rows, self._pad, device))[row, time]
            nll = losses.token_nll(hidden, student.head, targets, student.vocabulary)
        return -torch.zeros(len(rows), device=device).index_add(0, row, nll)


def _rows(pair: PairTokens) -> list[Encoded]:
    start = len(pair.prompt)
    return [
        Encoded((*pair.prompt, *completion), ((start, start + len(completion)),))
        for completion in (pair.chosen, pair.rejected)
    ]


def within(pairs: Sequence[PairTokens], tokens: int) -> list[Sequence[PairTokens]]:
    """The pairs in order, in runs of so many padded tokens; a longer pair is one of its own."""
    runs: list[list[PairTokens]] = []
    longest = 0
    for pair in pairs:
        own = len(pair.prompt) + max(len(pair.chosen), len(pair.rejected))
        longest = max(longest, own)
        if runs and 2 * (len(runs[-1]) + 1) * longest <= tokens:
            runs[-1].append(pair)
        else:
            runs.append([pair])
            longest = own
    return list(runs)


def loss(
    found: torch.Tensor, reference: torch.Tensor, beta: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """DPO's loss of each pair, shape [pair], and the rewards, shape [pair, 2].

    Args:
        found: log-probabilities of chosen and rejected, shape [pair, 2].
        reference: the same before the training.
        beta: how far the teacher may go from there.
    """
    rewards = beta * (found - reference)
    return -functional.logsigmoid(rewards[:, 0] - rewards[:, 1]), rewards.detach()


class PreferenceTrainer(Trainer):
    """Trains a model on pairs; its dataset is their positions."""

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        *,
        reader: Reader,
        pairs: Sequence[PairTokens],
        reference: torch.Tensor,
        beta: float,
        tokenizer: PreTrainedTokenizerBase,
        tokens: int | None = None,
    ) -> None:
        """Prepares a training.

        Args:
            model: whose weights learn, an adapter's or all of the reader's.
            args: of the Trainer.
            reader: of the same model.
            pairs: what is learnt.
            reference: their log-probabilities before the training, shape [pair, 2].
            beta: how far the teacher may go from there.
            tokenizer: saved beside the checkpoints.
            tokens: most padded tokens in one pass, fewer where the device has no room; None = a
                micro-batch, as it is.
        """
        numbers: Any = [{"pair": n} for n in range(len(pairs))]  # a list is Dataset enough
        super().__init__(
            model=model,
            args=args,
            train_dataset=numbers,
            data_collator=_positions,
            processing_class=tokenizer,
        )
        self.model_accepts_loss_kwargs = False  # else gradients of micro-batches are summed
        self._reader, self._pairs, self._reference, self._beta = reader, pairs, reference, beta
        self._tokens, self._halves = tokens, Halves(HINT)
        self._seen: list[torch.Tensor] = []
        self._shape, self._replayed = None, None
        # Where a step is several batches, the second one's replay would overwrite a gradient.
        if tokens is not None and args.gradient_accumulation_steps == 1:
            steps = math.ceil(len(pairs) / args.per_device_train_batch_size)
            rows = [row for pair in pairs for row in _rows(pair)]
            self._shape = Shape.of(rows, 2 * args.per_device_train_batch_size)
            steps *= math.ceil(args.num_train_epochs)
            if pays(reader.student, self._shape, steps, tokens):
                compute = functools.partial(self._computed, model)
                self._replayed = Replayed(reader.student, compute)

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor | Any],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """The gradient of a micro-batch's mean loss, in passes of as many pairs as have room."""
        if self._tokens is None:
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        numbers: list[int] = inputs["pair"].tolist()
        accumulated = self.current_gradient_accumulation_steps
        weights = [weight for weight in model.parameters() if weight.requires_grad]

        def usual() -> Found:
            return self._in_passes(model, numbers, accumulated)

        if self._replayed is None:
            told, gradients = usual()
        else:
            told, gradients = self._replayed(self._laid_out(numbers), 2 * len(numbers), usual)
        value, rewards = told
        self._seen.append(rewards[: len(numbers)].cpu())
        add_gradients(weights, gradients)
        return value.clone()

    def _in_passes(self, model: torch.nn.Module, numbers: Sequence[int], accumulated: int) -> Found:
        """The micro-batch's share of a step's loss, rewards, and the gradient."""
        assert self._tokens is not None
        references = {id(self._pairs[n]): self._reference[n] for n in numbers}
        share = 1 / (len(numbers) * accumulated)

        # A pass that runs out of memory half-way must leave no part of its gradient behind.
        def derivative(part: Sequence[PairTokens]) -> Found:
            found = self._reader.log_probabilities(part)
            reference = torch.stack([references[id(pair)] for pair in part])
            values, rewards = loss(found, reference.to(found.device), self._beta)
            total = values.sum() * share
            return (total.detach(), rewards), by_weight(total, model)

        runs = within([self._pairs[n] for n in numbers], self._tokens)
        told, gradient = summed(found for run in runs for _, found in self._halves(run, derivative))
        values, rewards = zip(*told, strict=True)
        return (torch.stack(values).sum(), torch.cat(rewards)), gradient

    def _laid_out(self, numbers: Sequence[int]) -> dict[str, torch.Tensor]:
        """The pairs at the size of every step."""
        assert self._shape is not None
        batch = self._shape.laid_out([row for n in numbers for row in _rows(self._pairs[n])])
        reference, share = torch.zeros(self._shape.rows // 2, 2), torch.zeros(self._shape.rows // 2)
        reference[: len(numbers)] = self._reference[list(numbers)]
        share[: len(numbers)] = 1 / len(numbers)
        return {**batch, "reference": reference, "share": share}

    def _computed(self, model: torch.nn.Module, batch: Batch) -> Found:
        """What ``_in_passes`` finds, in operations of fixed size."""
        nll = token_nll(self._reader.student, batch)
        sides = -nll.new_zeros(len(batch["ids"])).index_add(0, batch["row"], nll)
        values, rewards = loss(sides.view(-1, 2), batch["reference"], self._beta)
        total = (values * batch["share"]).sum()
        return (total.detach(), rewards), by_weight(total, model)

    def compute_loss(
        self,
        model: torch.nn.Module,  # noqa: ARG002  # the reader's
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,  # noqa: ARG002
    ) -> torch.Tensor:
        """The mean loss of a micro-batch."""
        assert not return_outputs
        numbers = inputs["pair"].tolist()
        found = self._reader.log_probabilities([self._pairs[n] for n in numbers])
        values, rewards = loss(found, self._reference[numbers].to(found.device), self._beta)
        self._seen.append(rewards.cpu())
        return values.mean()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the rewards of the pairs since the last time."""
        if self._seen:
            logs.update(zip(METRICS, summary(torch.cat(self._seen)), strict=True))
            self._seen.clear()
        super().log(logs, start_time)


def summary(rewards: torch.Tensor) -> list[float]:
    """``METRICS`` of rewards, shape [pair, 2]: shares and means over pairs."""
    chosen, rejected = rewards.unbind(1)
    parts = ((chosen > rejected).float(), chosen - rejected, chosen, rejected)
    return [float(part.mean()) for part in parts]


def _positions(rows: Sequence[Mapping[str, int]]) -> dict[str, torch.Tensor]:
    return {"pair": torch.tensor([row["pair"] for row in rows])}
