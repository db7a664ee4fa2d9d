"""Covariance of losses over perturbed students: do candidate and references get worse together?

    score(z) = Cov over c of  (ℓ(z; θ + s √D∘n_c), L_ref(θ + s √D∘n_c)),    n_c ~ N(0, 1)

Experimental. With a small s both losses are linear and the covariance tends to s² ⟨∇ℓ(z),
D∘∇L_ref⟩, ``adam_jvp`` times s², with the noise of ``draws`` samples: forward passes alone, and
many of them. D is Adam's preconditioner (``preconditioner = "none"``: 1), s is chosen so that the
perturbation is ``scale`` times as long as the weights. Each draw goes in both directions, n and -n,
so that curvature drops out of the covariance. In our sign a positive covariance helps; the
derivative of L_ref by the candidate's weight is its negative. Scores are divided by s². In bf16,
weights or products, most of a small perturbation rounds away, and the scores are noise:
``weights_moved`` among the diagnostics is the share of the weights that one changes there; a larger
``scale``, such as 0.1, helps.

Source: Bayesian influence functions, arXiv 2509.26544, and Daunce, arXiv 2505.23223. Deviation: the
perturbed students are Gaussian around the student and drawn anew from the seed whenever they are
needed; they run a chain of SGLD steps on the training set and keep its states. Noise is drawn where
the weights lie, so that a GPU's draws are others than a CPU's.
Cost: draws·M passes to prepare, ``draws`` per candidate, and random numbers for all weights, draws
times a call.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from influbench.estimator import Context, Examples, Facts, Need, Scorer, Scores
from influbench.files import digest

if TYPE_CHECKING:
    from influbench.derivatives.step import Excursion


@dataclass(frozen=True)
class LossCovariance:
    """Covariance of the candidate's loss with the reference loss under random perturbations."""

    draws: int = 32
    """Perturbed students, half of them the other half mirrored."""
    scale: float = 1e-3
    """Expected length of a perturbation, as a share of the weights' own."""
    preconditioner: Literal["adam", "none"] = "adam"

    def __post_init__(self) -> None:
        if self.draws < 2 or self.draws % 2:
            raise ValueError(f"option 'draws' must be even and at least 2, got {self.draws}")
        if self.scale <= 0:
            raise ValueError(f"option 'scale' must be above 0, got {self.scale}")

    @property
    def facts(self) -> Facts:
        """Moments where they precondition."""
        needs: set[Need] = {"gradients"}
        if self.preconditioner == "adam":
            needs.add("moments")
        source = "Bayesian influence functions, arXiv 2509.26544"
        passes = f"{self.draws}M", f"{self.draws}"
        # Noise for all weights is drawn in every call.
        return Facts("signed", source, needs, passes, spends="draws", at_once=64)

    def prepare(self, ctx: Context) -> Scorer:
        """Measures the reference loss of every perturbed student."""
        from influbench.derivatives import gradients, step

        student = ctx.student
        adam = self.preconditioner == "adam"
        trip = step.excursion(step.next_update(student, needs_moments=adam))
        batches = student.batches(ctx.reference)
        spreads = self._spreads(trip)
        reference = np.empty(self.draws)
        facts: dict[str, float] = {}
        for number in self._perturbed(ctx, trip, spreads):
            reference[number] = gradients.losses_of(student, batches).mean()
            if number == 0:
                facts.update(trip.told(student))
        centred = _by_pairs(reference)

        def score(examples: Examples) -> Scores:
            own = np.empty((self.draws, len(examples)))
            laid = student.batches(examples)
            for number in self._perturbed(ctx, trip, spreads):
                own[number] = gradients.losses_of(student, laid)
            value = centred @ _by_pairs(own) / self.draws / spreads[0] ** 2
            return Scores(value=value, diagnostics=facts)

        return score

    def _spreads(self, trip: Excursion) -> tuple[float, list[Any]]:
        """s, and √D for each weight."""
        from influbench.derivatives import gradients

        update = trip.update
        if self.preconditioner == "adam":
            roots = [d.sqrt_() for d in update.preconditioner()]
            length = gradients.norm(roots)
        else:
            roots = [1.0 for _ in update.weights]
            length = sum(w.numel() for w in update.weights) ** 0.5
        return self.scale * gradients.norm([w.detach() for w in update.weights]) / length, roots

    def _perturbed(
        self, ctx: Context, trip: Excursion, spreads: tuple[float, list[Any]]
    ) -> Iterator[int]:
        """Numbers of the perturbed students, each while its weights are in place."""
        import torch

        s, roots = spreads
        device = trip.update.weights[0].device
        for number in range(self.draws):
            seed = int(digest(f"loss_covariance:{ctx.seed}:{number // 2}")[:12], 16)
            generator = torch.Generator(device).manual_seed(seed)
            sign = 1.0 if number % 2 == 0 else -1.0
            with trip.undone():
                with torch.no_grad():
                    for slot, root in zip(trip.update.slots, roots, strict=True):
                        weight, master = slot.weight, slot.master.to(device)
                        noise = torch.randn(weight.shape, generator=generator, device=device)
                        # From the master: a bf16 weight would round most of the noise away.
                        weight.copy_(master.add(noise.to(master) * root, alpha=sign * s))
                yield number


def _by_pairs(values: np.ndarray) -> np.ndarray:
    """Half the difference between a draw and its mirror image, for each draw; shape as given."""
    half = (values[0::2] - values[1::2]) / 2
    return np.stack([half, -half], axis=1).reshape(values.shape)
