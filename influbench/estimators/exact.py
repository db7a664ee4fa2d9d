"""Exact one-step influence: take the step, look at the reference losses, undo the step.

    influence(z) = L_ref(θ + u(0)) - L_ref(θ + u(∇ℓ(z)))        (baseline = "null")
    influence(z) = L_ref(θ)        - L_ref(θ + u(∇ℓ(z)))        (baseline = "before", the paper's)

u is the next AdamW step with the warm-up's moments, step count, learning rate, weight decay and the
training's own clipping (``influbench.updates``). With warmed moments even an empty step moves the loss, so
the paper's baseline mixes momentum into the sign; the two differ by one constant, which is kept with the
scores (``reference_loss_before``, ``reference_loss_null``).

Source: Yu et al., Montessori-Instruct, arXiv 2410.14208, "local data influence". Deviations from its
released code: fp32, clipping as in training, mean over examples of per-example losses, weights restored
from memory and not from disk, no division by the number of workers.
Cost: 2M forward passes to prepare, 3 + M per candidate (M references; a backward counts as two forwards).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from influbench.estimator import Context, Scale, Scorer, Scores
from influbench.records import Example


@dataclass(frozen=True)
class Exact:
    """The oracle that every other method is judged by."""

    baseline: Literal["null", "before"] = "null"

    scale: ClassVar[Scale] = "nats"
    needs: ClassVar[tuple[str, ...]] = ("gradients", "moments")
    cost: ClassVar[str] = "2M; M + 3"
    source: ClassVar[str] = "Montessori-Instruct, arXiv 2410.14208"
    stderr: ClassVar[bool] = True

    def prepare(self, ctx: Context) -> Scorer:
        """Measures the reference losses before any step and after the empty one."""
        import torch

        from influbench import gradients, updates

        student, references = ctx.student, list(ctx.reference)
        batches = student.batches(references)
        update = updates.next_update(student)
        weights = update.weights
        saved = [w.detach().clone() for w in weights]

        def after_step(step: gradients.Tensors | None) -> np.ndarray:
            try:
                update.apply(step)
                return gradients.losses(student, references, batches)
            finally:
                with torch.no_grad():
                    torch._foreach_copy_(weights, saved)

        before = gradients.losses(student, references, batches)
        null = after_step(None)
        start = null if self.baseline == "null" else before

        def score(examples: Sequence[Example]) -> Scores:
            drops = np.stack(
                [start - after_step(gradients.gradient(student, weights, e)) for e in examples]
            )
            count = drops.shape[1]
            return Scores(
                value=drops.mean(axis=1),
                stderr=drops.std(axis=1, ddof=1) / count**0.5 if count > 1 else None,
                per_reference=drops,
                diagnostics={
                    "reference_loss_before": float(before.mean()),
                    "reference_loss_null": float(null.mean()),
                },
            )

        return score
