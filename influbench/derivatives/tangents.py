"""Where the student's hidden states go when its weights go in a random direction.

    e(z) = Σ_t t · J_t v / Σ_t t,    J_t v = d/dε h_t(z; θ + εv) at ε = 0

h_t are the last hidden states: an example's own Jacobian, seen through a few directions of the
weights, in forward mode. One dual-number pass a direction; no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from influbench.data.records import Example
from influbench.derivatives import step
from influbench.derivatives.gradients import Tensors
from influbench.errors import UserError
from influbench.estimator import Array
from influbench.files import digest
from influbench.models.decoder import decoder_of
from influbench.student import LanguageStudent


def encoder(student: LanguageStudent, directions: int, seed: int) -> TangentEncoder:
    """Tangents along random directions of all weights that the student trains."""
    weights = step.next_update(student, needs_moments=False).weights
    return TangentEncoder(student, weights, directions, f"tangent:{seed}")


class TangentEncoder:
    """Examples to tangents of their hidden states, of length 1 a direction.

    Args:
        student: whose weights are looked at, and not moved.
        weights: those that the directions move.
        directions: how many; each is drawn with every tensor's own root mean square.
        seed: of the directions.

    Raises:
        UserError: no weight below the output embedding is among them.
    """

    def __init__(self, student: LanguageStudent, weights: Tensors, directions: int, seed: str):
        names = {id(p): name for name, p in student.model.named_parameters()}
        self._student = student
        self._weights = {names[id(w)]: w.detach() for w in weights}
        if not _prefixed(student, self._weights):
            raise UserError(
                "tangents of the hidden states need trained weights below the output embedding, "
                "and the student trains none: choose features = 'student'"
            )
        self._directions = [_drawn(weights, f"{seed}:{number}") for number in range(directions)]

    def __call__(self, examples: Sequence[Example]) -> Array:
        """Shape [example, directions · width], fp64, rows of length 1."""
        student = self._student
        width = student.model.config.get_text_config().hidden_size
        out = np.empty((len(examples), len(self._directions), width))
        for batch in student.batches(examples, learning=True):
            ids = batch.tokens
            lengths = torch.tensor([len(r.ids) for r in batch.rows], device=batch.device)[:, None]
            position = torch.arange(1, ids.shape[1] + 1, device=batch.device)[None]
            weight = (position * (position <= lengths)).float()
            weight = (weight / weight.sum(1, keepdim=True))[:, :, None]

            def states(values: dict[str, torch.Tensor], ids: torch.Tensor = ids) -> torch.Tensor:
                arguments = {"input_ids": ids, "use_cache": False, "output_hidden_states": False}
                decoder = _prefixed(student, values)
                return torch.func.functional_call(
                    decoder_of(student.model), decoder, kwargs=arguments
                ).last_hidden_state

            for number, direction in enumerate(self._directions):
                along = dict(zip(self._weights, direction, strict=True))
                with torch.no_grad(), student.precision(), sdpa_kernel(SDPBackend.MATH):
                    moved = torch.func.jvp(states, (self._weights,), (along,))[1]
                mean = functional.normalize((moved.float() * weight).sum(1).double(), dim=-1)
                out[list(batch.positions), number] = mean.cpu().numpy()
        return out.reshape(len(examples), -1) / len(self._directions) ** 0.5


def _prefixed(student: LanguageStudent, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The values by the names that the decoder has for them; what is not in it plays no part."""
    decoder = decoder_of(student.model)
    (prefix,) = [n for n, module in student.model.named_modules() if module is decoder] or [""]
    start = f"{prefix}." if prefix else ""
    return {n.removeprefix(start): v for n, v in values.items() if n.startswith(start)}


def _drawn(weights: Tensors, key: str) -> Tensors:
    generator = torch.Generator().manual_seed(int(digest(key)[:12], 16))
    return [
        (torch.randn(w.shape, generator=generator).to(w) * w.detach().square().mean().sqrt())
        for w in weights
    ]
