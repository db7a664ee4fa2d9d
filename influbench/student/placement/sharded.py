"""A student too large for one device: its weights and moments in shards, one a process, by FSDP2.

``shard`` splits a student over the processes of the default group with ``torch.distributed.fsdp
.fully_shard``. Every process then runs the same estimator on the same candidates and gets the same
scores: a candidate's gradient is computed by all together, the reference batches are split row by
row, and each process takes the optimizer step on the shards that it owns
(``influbench.derivatives.step`` reads the local part of every tensor).

The student is loaded whole by every process before it is split, so the host's memory must hold it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import MethodType
from typing import Any

import torch
from torch import distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from influbench.data.records import Example
from influbench.estimator import Batch
from influbench.models.decoder import decoder_of
from influbench.student.batch import TokenBatch
from influbench.student.language_student import LanguageStudent
from influbench.student.losses import Encoded
from influbench.student.room import Room


@dataclass(frozen=True)
class SharedBatch(Batch):
    """A batch whose rows the processes share."""

    whole: TokenBatch
    own: TokenBatch
    """This process's rows."""


@dataclass(frozen=True)
class ShardedStudent:
    """A language student in shards (``estimator.Student``)."""

    student: LanguageStudent

    @property
    def model(self) -> PreTrainedModel:
        """The network; its parameters are distributed tensors."""
        return self.student.model

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer over the distributed tensors."""
        return self.student.optimizer

    @property
    def clip_norm(self) -> float | None:
        """The training's clip norm."""
        return self.student.clip_norm

    @property
    def room(self) -> Room:
        """What its devices turned out not to hold."""
        return self.student.room

    @property
    def packed(self) -> bool:
        """Whether rows go through the model in one sequence, without gradients."""
        return self.student.packed

    def encode(self, example: Example) -> Encoded:
        """As the whole student's."""
        return self.student.encode(example)

    def batches(self, examples: Sequence[Example]) -> list[SharedBatch]:
        """As the whole student's; each process knows its share of the rows."""
        return [_shared(batch) for batch in self.student.batches(examples)]

    def loss(self, batch: SharedBatch) -> torch.Tensor:
        """Per-example loss, shape [example], the same in every process.

        Without gradients each process computes its share of the rows. With gradients each computes
        all of them: FSDP takes the mean of the processes' gradients, which are then equal.
        """
        if torch.is_grad_enabled():
            return self._forward(batch.whole)
        mine = self._forward(batch.own)
        parts = [torch.empty_like(mine) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, mine)
        return torch.cat(parts)[: len(batch.positions)]

    def backward(self, loss: torch.Tensor) -> list[torch.Tensor]:
        """Gradient by the local part of each weight; ``.grad`` fields are left empty."""
        loss.backward()
        found = []
        for weight in self._weights():
            gradient, weight.grad = weight.grad, None
            part = local(weight)
            found.append(torch.zeros_like(part) if gradient is None else local(gradient))
        return found

    def _weights(self) -> list[torch.Tensor]:
        return [w for group in self.optimizer.param_groups for w in group["params"]]

    def _forward(self, batch: TokenBatch) -> torch.Tensor:
        forward: Any = self.model  # a method of the model: FSDP gathers its weights around it
        return forward.loss_of(batch)


def _shared(batch: TokenBatch) -> SharedBatch:
    count, rank = len(batch.rows), distributed.get_rank()
    share = -(-count // distributed.get_world_size())
    # A process without rows of its own still has to take part in gathering the weights.
    rows = [min(rank * share + i, count - 1) for i in range(share)]
    return SharedBatch(batch.positions, batch.examples, batch, batch.take(rows))


def shard(student: LanguageStudent, device: torch.device) -> ShardedStudent:
    """Splits a student over the processes of the default group; the one given is used up.

    Args:
        student: whole, in host memory.
        device: where this process's shards go.
    """
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    model = student.model
    names = {weight: name for name, weight in model.named_parameters()}
    groups, states = [], {}
    for group in student.optimizer.param_groups:
        groups.append({**group, "params": [names[w] for w in group["params"]]})
        for weight in group["params"]:
            states[names[weight]] = student.optimizer.state.get(weight, {})

    def loss_of(_: PreTrainedModel, batch: TokenBatch) -> torch.Tensor:
        return split.loss(batch)

    layers = decoder_of(model).get_submodule("layers")
    for layer in layers.children():
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    # The root too: weights kept whole after a forward pass would not see the next step.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    vars(model)["loss_of"] = MethodType(loss_of, model)
    register_fsdp_forward_method(model, "loss_of")
    weights = dict(model.named_parameters())
    kind: Any = type(student.optimizer)
    optimizer: torch.optim.Optimizer = kind(
        [{**g, "params": [weights[n] for n in g["params"]]} for g in groups]
    )
    for name, state in states.items():
        if state:
            optimizer.state[weights[name]] = {
                key: _split(value, weights[name], mesh) for key, value in state.items()
            }
    # As many rows as the processes hold together.
    budget = student.token_budget * distributed.get_world_size()
    split = replace(student, optimizer=optimizer, token_budget=budget)
    return ShardedStudent(split)


def local(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a tensor that this process holds, in the same memory; mostly all of it."""
    if not isinstance(tensor, DTensor):
        return tensor
    with torch.no_grad():
        return tensor.to_local()


def _split(value: Any, weight: torch.Tensor, mesh: DeviceMesh) -> Any:
    """A moment as its weight is split; a step count as it is."""
    assert isinstance(weight, DTensor)
    if not isinstance(value, torch.Tensor) or value.shape != weight.shape:
        return value
    return distribute_tensor(value, mesh, weight.placements)
