"""Gradients of single examples without launch overhead: recorded once a length, then replayed.

On a GPU the gradient of one row of 220 tokens is thousands of small kernels, and starting them
takes ten times as long as running them. A CUDA graph starts them all at once. Rows are padded to
the next multiple of ``STEP`` tokens, of which nothing learns, so that few graphs serve all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from influbench.data.records import Example
from influbench.derivatives import gradients
from influbench.derivatives.gradients import Tensors
from influbench.derivatives.step import Cast
from influbench.estimator import Student
from influbench.store import passes
from influbench.student import LanguageStudent
from influbench.student.casting import linear_layers
from influbench.student.losses import CHUNK, Encoded

STEP = 64
"""Lengths, and numbers of response tokens, are rounded up to multiples of it."""

FREQUENT = 3
"""How often a length must come before it is recorded, which costs as much as three gradients."""

MOST = 32
"""Graphs kept; further lengths go without."""

SHARE = 3
"""Free memory needed, in sizes of the gradient: the recording's own, the kept one, activations."""

Size = tuple[int, int]


@dataclass(frozen=True)
class Row:
    """One example at a fixed size, on the device."""

    ids: torch.Tensor
    """Shape [1, time]; padding behind the end, which a causal model does not see."""
    at: torch.Tensor
    """Where response tokens are predicted, shape [response]."""
    targets: torch.Tensor
    """Their ids, shape [response]."""
    share: torch.Tensor
    """Each one's weight in the mean, shape [response], fp64; 0 for padding."""

    def take(self, other: Row) -> None:
        """Becomes a copy of another row of this size."""
        for name in ("ids", "at", "targets", "share"):
            getattr(self, name).copy_(getattr(other, name), non_blocking=True)


def size_of(row: Encoded) -> Size:
    """The size that a row is padded to."""
    return -(-len(row.ids) // STEP) * STEP, -(-len(row.learned) // STEP) * STEP


def padded(row: Encoded, size: Size, device: torch.device, pad: int) -> Row:
    """A row laid out at a size."""
    time, response = size
    count = len(row.learned)
    rest = [0] * (response - count)
    return Row(
        torch.tensor([[*row.ids, *[pad] * (time - len(row.ids))]], device=device),
        torch.tensor([*(t - 1 for t in row.learned), *rest], device=device),
        torch.tensor([*(row.ids[t] for t in row.learned), *rest], device=device),
        torch.tensor([*[1 / count] * count, *rest], dtype=torch.float64, device=device),
    )


def loss(student: LanguageStudent, row: Row) -> torch.Tensor:
    """The example's loss, a scalar: what ``student.loss`` gives, in operations of fixed size."""
    with student.precision():
        hidden = student.hidden(row.ids)[0].index_select(0, row.at)
        nll = functional.cross_entropy(student.head(hidden).float(), row.targets, reduction="none")
    # Padding has a share of 0, but its loss must not be infinite for that.
    return (nll.double() * row.share).sum()


def narrow_layers(student: LanguageStudent, weights: Tensors) -> dict[int, nn.Linear]:
    """Layers, by number of their weight, that multiply in bf16 with a copy of an fp32 weight."""
    layers = linear_layers(student.model) if student.compute == "bfloat16" else {}
    return {n: layers[id(w)] for n, w in enumerate(weights) if id(w) in layers}


def derivative(
    student: LanguageStudent, weights: Tensors, row: Row, narrow: Mapping[int, nn.Linear]
) -> tuple[torch.Tensor, Tensors]:
    """Loss of a row, and its gradient by each weight.

    By weights of ``narrow`` it is in bf16, as the product left it: autocast's would be the same
    numbers in fp32, at twice the memory and three times the traffic.
    """
    leaves = list(weights)
    with ExitStack() as stack:
        for number, layer in narrow.items():
            copy = nn.Parameter(layer.weight.detach().bfloat16())
            stack.enter_context(Cast(layer, copy).used())
            leaves[number] = copy
        total = loss(student, row)
        return total.detach(), list(torch.autograd.grad(total, leaves, materialize_grads=True))


def one_by_one(student: Student, weights: Tensors) -> Callable[[Example], Tensors]:
    """Gradients of examples that are looked at one at a time.

    What a call returns may be overwritten by the next one, and be narrower than the weights.
    """
    if not isinstance(student, LanguageStudent) or student.model.device.type != "cuda":
        return lambda example: gradients.gradient(student, weights, example)
    device = student.model.device
    with torch.cuda.device(device):
        graphs = GraphedGradients(student, weights)

    def gradient(example: Example) -> Tensors:
        with torch.cuda.device(device):
            found = None if student.pad_to else graphs(student.encode(example))
        if found is None:
            return gradients.gradient(student, weights, example)
        value, gradient = found
        gradients.check_finite(value, example)
        return gradient

    return gradient


class GraphedGradients:
    """Gradients by replayed graphs; what one call returns is overwritten by the next."""

    def __init__(
        self,
        student: LanguageStudent,
        weights: Tensors,
        frequent: int = FREQUENT,
        *,
        narrow: bool = True,
    ) -> None:
        """Records nothing yet; ``narrow`` false: gradients in the dtype of the weights."""
        self._student = student
        self._weights = weights
        self._narrow = narrow_layers(student, weights) if narrow else {}
        self._frequent = frequent
        self._seen: Counter[Size] = Counter()
        self._graphs: dict[Size, tuple[torch.cuda.CUDAGraph, Row]] = {}
        self._pool = torch.cuda.graph_pool_handle()
        self._aside = torch.cuda.Stream()
        self._loss = torch.zeros((), dtype=torch.float64, device=student.model.device)
        self._out: Tensors | None = None
        self._failed = False

    def __call__(self, row: Encoded) -> tuple[float, Tensors] | None:
        """Loss and gradient of one row; None where it is to be computed without a graph."""
        size = size_of(row)
        if size[1] > CHUNK or self._failed:
            return None
        if size not in self._graphs:
            self._seen[size] += 1
            if self._seen[size] < self._frequent or not self._room():
                return None
        pad = self._student.tokenizer.pad_token_id
        assert isinstance(pad, int)
        laid = padded(row, size, self._student.model.device, pad)
        if size not in self._graphs and not self._recorded(size, laid):
            return None
        graph, held = self._graphs[size]
        held.take(laid)
        graph.replay()
        backbone = passes.backbone(self._student.model)
        passes.reported(backbone, forward=1, backward=1, positions=size[0])
        assert self._out is not None
        return float(self._loss), self._out

    def _recorded(self, size: Size, row: Row) -> bool:
        """Records a graph; where a model cannot be recorded it goes without, and says so."""
        try:
            self._graphs[size] = self._record(row)
        except RuntimeError as error:  # torch's out of memory too
            reason = str(error).strip().splitlines()[0]
            self._student.room.said.append(f"gradients are computed without a CUDA graph: {reason}")
            self._failed = True
            return False
        return True

    def _record(self, row: Row) -> tuple[torch.cuda.CUDAGraph, Row]:
        weights = self._weights
        if self._out is None:
            dtypes = [torch.bfloat16 if n in self._narrow else None for n in range(len(weights))]
            pairs = zip(weights, dtypes, strict=True)
            self._out = [torch.empty_like(w, dtype=dtype) for w, dtype in pairs]
        worker, aside = torch.cuda.current_stream(), self._aside
        graph = torch.cuda.CUDAGraph()
        with passes.uncounted():
            aside.wait_stream(worker)
            with torch.cuda.stream(aside):  # libraries allocate and choose kernels at first
                for _ in range(2):
                    self._run(row)
            worker.wait_stream(aside)
            with torch.cuda.graph(graph, pool=self._pool):
                self._run(row)
        return graph, row

    def _run(self, row: Row) -> None:
        assert self._out is not None
        with torch.enable_grad():
            total, found = derivative(self._student, self._weights, row, self._narrow)
        with torch.no_grad():
            torch._foreach_copy_(self._out, found)  # pyright: ignore[reportPrivateImportUsage, reportPrivateUsage]  # its only name
            self._loss.copy_(total)

    def _room(self) -> bool:
        """Whether a graph's own gradient, its copy and activations fit beside what there is."""
        if len(self._graphs) >= MOST:
            return False
        if self._graphs:
            return True  # all share the first one's memory
        needed = SHARE * sum(w.numel() * w.element_size() for w in self._weights)
        device = self._student.model.device
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused > needed
