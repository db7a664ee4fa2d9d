"""The gradient of an optimizer step recorded once as a CUDA graph, and replayed for all others.

A step of a small model is thousands of kernels (7,600 where a LoRA adapter of SmolLM2-135M learns
from four pairs: ``benchmarks/launches.py``), which take longer to start than to run. A graph starts
them all at once, but only in tensors of one size: rows are padded to the longest of the whole
training, and what is behind their ends counts nothing. The first step is computed the usual way
too, and the graph is used only if both gradients are the same but for rounding.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional

from influbench.store import passes
from influbench.student import Compute, LanguageStudent
from influbench.student.losses import Encoded

WORTH = 8
"""Steps from which recording one is taken to pay, which computes it four times; not measured."""

ARITHMETIC: Mapping[Compute, int] = {"bfloat16": 1 << 40, "tf32": 1 << 39, "float32": 1 << 37}
"""Weights times padded tokens up to which starting kernels takes longer than what they compute.

A step has six times as many operations: 9 ms of bf16 products on an H100, 17 ms of fp32's."""

ALIKE: Mapping[Compute, float] = {"bfloat16": 6e-2, "tf32": 6e-2, "float32": 1e-3}
"""How far the gradient may be from the usual one, of its norm: other kernels round otherwise."""

STEP = 16
"""Lengths are rounded up to multiples of it."""

Batch = Mapping[str, torch.Tensor]
"""Tensors of the same shapes at every step."""

Gradient = Sequence[torch.Tensor | None]
"""By each weight that learns; None is a weight that had no part."""

Found = tuple[Sequence[torch.Tensor], Gradient]
"""What is told of a step, its loss first, and its gradient."""


@dataclass(frozen=True)
class Shape:
    """The size that the rows of every step are padded to."""

    rows: int
    time: int
    learned: int
    """Response tokens of all rows of a step together."""

    @classmethod
    def of(cls, rows: Sequence[Encoded], at_once: int) -> Shape:
        """The least in which any ``at_once`` of these rows have room."""
        learned = sorted((len(row.learned) for row in rows), reverse=True)
        longest = max(len(row.ids) for row in rows)
        return cls(at_once, _up(longest), _up(sum(learned[:at_once])))

    def laid_out(self, rows: Sequence[Encoded]) -> dict[str, torch.Tensor]:
        """Rows at this size, on the CPU.

        ``ids``, shape [row, time]; of each response token ``row``, ``at`` (where it is predicted,
        counted through all rows), ``target`` and ``counted``, which is 0 for padding, shape
        [learned].
        """
        ids = torch.zeros(self.rows, self.time, dtype=torch.long)
        for n, row in enumerate(rows):
            ids[n, : len(row.ids)] = torch.tensor(row.ids)
        told = [(n, n * self.time + t - 1, row.ids[t]) for n, row in enumerate(rows)
                for t in row.learned]  # fmt: skip
        rest = [(0, 0, 0)] * (self.learned - len(told))
        row, at, target = torch.tensor([*told, *rest]).T.contiguous()
        counted = torch.tensor([1.0] * len(told) + [0.0] * len(rest))
        return {"ids": ids, "row": row, "at": at, "target": target, "counted": counted}


def token_nll(student: LanguageStudent, batch: Batch) -> torch.Tensor:
    """Negative log-likelihood of each response token, 0 for padding, shape [learned], fp32."""
    with student.precision():
        hidden = student.hidden(batch["ids"]).flatten(0, 1).index_select(0, batch["at"])
        logits = student.head(hidden).float()
    return functional.cross_entropy(logits, batch["target"], reduction="none") * batch["counted"]


def pays(student: LanguageStudent, shape: Shape, steps: int, room: int) -> bool:
    """Whether starting kernels is most of a step, and a padded one fits.

    Args:
        student: what learns.
        shape: of every step.
        steps: how many there are.
        room: most padded tokens in one pass.
    """
    tokens = shape.rows * shape.time
    weights = sum(weight.numel() for weight in student.model.parameters())
    small = weights * tokens <= ARITHMETIC[student.compute]
    return _starts_kernels(student) and steps >= WORTH and tokens <= room and small


def _starts_kernels(student: LanguageStudent) -> bool:
    return student.model.device.type != "cpu"


Record = Callable[[Callable[[], Found]], tuple[Callable[[], None], Found]]


def graph_of(run: Callable[[], Found]) -> tuple[Callable[[], None], Found]:
    """A function as a CUDA graph: what replays it, and the tensors in which it leaves its result.

    They are overwritten by every replay.
    """
    graph, aside = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    worker = torch.cuda.current_stream()
    aside.wait_stream(worker)
    with torch.cuda.stream(aside):  # libraries allocate and choose kernels at first
        run()
    worker.wait_stream(aside)
    with torch.cuda.graph(graph):
        found = run()
    return graph.replay, found


@dataclass
class Replayed:
    """Steps of one shape: the first is recorded, all are replayed."""

    student: LanguageStudent
    compute: Callable[[Batch], Found]
    """A step of a batch, in operations that do not depend on what it holds."""
    record: Record = graph_of
    recorded: bool = False
    _held: dict[str, torch.Tensor] = field(default_factory=dict)
    _replay: Callable[[], None] | None = None
    _found: Found | None = None
    _failed: bool = False

    def __call__(self, batch: Batch, rows: int, usual: Callable[[], Found]) -> Found:
        """A step, as ``usual`` makes it where it cannot be recorded.

        The gradient is overwritten by the next call, so it must be used before.

        Args:
            batch: the step.
            rows: those that are not padding, to be counted.
            usual: makes the same step otherwise.
        """
        # Layers that are computed again going back keep a state of chance that no graph may read.
        if self._failed or self.student.model.is_activation_checkpointing:
            return usual()
        expected = None
        if self._replay is None:
            expected = usual()
            if not self._begun(batch, expected):
                return expected
        assert self._replay is not None
        assert self._found is not None
        for name, tensor in batch.items():
            self._held[name].copy_(tensor)
        self._replay()
        if expected is None:
            backbone, positions = passes.backbone(self.student.model), batch["ids"].numel()
            passes.reported(backbone, forward=rows, backward=rows, positions=positions)
        return self._found

    def _begun(self, batch: Batch, expected: Found) -> bool:
        device = self.student.model.device
        try:
            with passes.uncounted(), _on(device):
                self._held = {name: tensor.to(device) for name, tensor in batch.items()}
                self._replay, self._found = self.record(lambda: self.compute(self._held))
                self._replay()
            if not alike(self._found[1], expected[1], ALIKE[self.student.compute]):
                raise ValueError("its gradient was another")
        except (RuntimeError, TypeError, ValueError) as error:  # torch's out of memory too
            self._failed, self._held, self._replay, self._found = True, {}, None, None
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            warnings.warn(f"steps are made without a CUDA graph: {reason}", stacklevel=3)
        self.recorded = not self._failed
        return self.recorded


def alike(found: Gradient, usual: Gradient, tolerance: float) -> bool:
    """Whether two gradients are the same but for so much of the second one's norm."""
    if [part is None for part in found] != [part is None for part in usual]:
        return False
    pairs = [(a, b) for a, b in zip(found, usual, strict=True) if a is not None and b is not None]
    apart = torch.stack([(a.float() - b.float()).norm() for a, b in pairs]).norm()
    return bool(apart <= tolerance * torch.stack([b.float().norm() for _, b in pairs]).norm())


def by_weight(total: torch.Tensor, model: nn.Module) -> Gradient:
    """The gradient by each weight of a model that learns."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    return list(torch.autograd.grad(total, weights, allow_unused=True))


def summed(parts: Iterable[Found]) -> tuple[list[Sequence[torch.Tensor]], Gradient]:
    """What is told of each part, and the gradient of all; only one part's is held beside it."""
    told: list[Sequence[torch.Tensor]] = []
    gradient: Gradient = []
    for said, part in parts:
        gradient = added(gradient, part) if told else part
        told.append(said)
    return told, gradient


def added(left: Gradient, right: Gradient) -> Gradient:
    """The sum of two gradients, in the memory of the first one."""
    return [
        b if a is None else a if b is None else a.add_(b) for a, b in zip(left, right, strict=True)
    ]


def _on(device: torch.device) -> torch.cuda.device | nullcontext[None]:
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _up(count: int) -> int:
    return -(-count // STEP) * STEP
