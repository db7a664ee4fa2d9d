"""The exact influence, spending reference passes only until the answer is settled.

    h_ic = -⟨∇L_c(θ + u(0)), u(∇ℓ(z_i)) - u(0)⟩      first order, for each cluster c of references
    f_ic = L_c(θ + u(0)) - L_c(θ + u(∇ℓ(z_i)))       exact, measured for the first few clusters
    score(z_i) = mean over all c of h_ic + what the prediction is believed to miss

The references are dealt at random into clusters, whose mean gradients are kept (in bf16, where the
weights are fp32: the rounding is random and a product over all weights averages it away). The
first-order score is the control variate of a difference estimator (``settling``). Within
a group of siblings the most doubtful comparison is measured on, one cluster at a time, until the
chance that the answer to ``goal`` is wrong is at most 1 - ``confidence``. How first order misses is
learnt from ``probes`` warm-up examples that are measured in full.

A score depends on which siblings are scored with it: that is what saves the passes. Give whole
groups to one call (``scoring.chunk_size`` a multiple of the group size, siblings side by side).
This is the one promise of the contract that this method does not keep, so it is not among the
registered names: write ``influbench.estimators.adaptive:Adaptive``.

Source: difference estimators of survey sampling (Särndal, Swensson and Wretman, Model Assisted
Survey Sampling, 1992), with the exact influence of Montessori-Instruct, arXiv 2410.14208.
Cost: (4 + probes) M + 3 · probes passes to prepare, 3 + the measured clusters' references per
candidate. Memory: a gradient for each cluster and for all of them, a step for each sibling of one
group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from influbench.data.records import Example
from influbench.estimator import Array, Batch, Context, Examples, Facts, Scorer, Scores
from influbench.estimators.adaptive import settling
from influbench.files import digest

if TYPE_CHECKING:
    from influbench.derivatives.gradients import Tensors
    from influbench.derivatives.step import Excursion


@dataclass(frozen=True)
class Adaptive:
    """Exact where it matters, first order elsewhere."""

    goal: settling.Goal = "best_worst"
    confidence: float = 0.99
    """For each group's answer (each candidate's, if the goal is ``sign``)."""
    clusters: int = 8
    """Parts of the reference set; at most as many as there are references."""
    probes: int = 8
    """Warm-up examples measured in full to learn how first order misses."""
    clip: bool = True
    """Clip the gradient as the training does."""

    facts = Facts(
        "nats",
        "arXiv 2410.14208 with a difference estimator",
        {"gradients", "moments", "warmup"},
        ("(4 + probes)M + 3probes", "3 + part of M"),
    )

    def __post_init__(self) -> None:
        if not 0.5 <= self.confidence < 1:
            raise ValueError(f"option 'confidence' must be in [0.5, 1), got {self.confidence}")
        for name, least in (("clusters", 1), ("probes", 2)):
            if getattr(self, name) < least:
                got = getattr(self, name)
                raise ValueError(f"option '{name}' must be at least {least}, got {got}")

    def prepare(self, ctx: Context) -> Scorer:
        """Gradients and losses of the clusters after the empty step, and what probes teach."""
        probes = ctx.probes("adaptive", self.probes)
        known = _prepare(ctx, self.clusters, clip=self.clip)
        missed = []
        for example in probes:
            step = known.step(example)
            exact = known.measure(step, range(len(known.clusters)))
            missed.append(np.array(exact) - known.predict(step))
        misses = settling.learn(np.stack(missed))

        def score(examples: Examples) -> Scores:
            values, passes = np.empty(len(examples)), 0
            for members in _groups(examples):
                beliefs = self._settle(known, misses, [examples[i] for i in members])
                values[members] = [belief.estimate(misses)[0] for belief in beliefs]
                passes += sum(known.references(len(belief.measured)) for belief in beliefs)
            facts = {
                "reference_passes": passes / len(examples),
                "miss_mean": misses.mean,
                "miss_between": misses.between**0.5,
                "miss_within": misses.within**0.5,
            }
            return Scores(value=values, diagnostics=facts)

        return score

    def _settle(
        self, known: _Known, misses: settling.Misses, siblings: Examples
    ) -> list[settling.Belief]:
        """Beliefs of which the answer follows with confidence."""
        steps = [known.step(e) for e in siblings]
        beliefs = [settling.Belief(known.whole(step), len(known.clusters)) for step in steps]

        def measure(member: int, cluster: int) -> tuple[float, float]:
            step = steps[member]
            return known.measure(step, [cluster])[0], float(known.predict(step, [cluster])[0])

        settling.settle(beliefs, misses, self.goal, self.confidence, measure)
        return beliefs


@dataclass(frozen=True)
class Clustered:
    """First order alone, by cluster: the control variate, for studies of it.

    ``per_reference`` holds, for each reference, the score of its cluster.
    """

    clusters: int = 8
    clip: bool = True
    """Clip the gradient as the training does."""

    facts = Facts(
        "nats", "Taylor expansion of arXiv 2410.14208", {"gradients", "moments"}, ("4M", "3")
    )

    def prepare(self, ctx: Context) -> Scorer:
        """Gradients of the clusters after the empty step."""
        known = _prepare(ctx, self.clusters, clip=self.clip)

        def score(examples: Examples) -> Scores:
            table = np.empty((len(examples), len(ctx.reference)))
            for row, example in zip(table, examples, strict=True):
                found = known.raw(known.step(example), range(len(known.clusters)))
                for members, value in zip(known.clusters, found, strict=True):
                    row[members] = value
            return Scores(value=table.mean(axis=1), per_reference=table)

        return score


def deal(count: int, clusters: int, seed: int) -> list[list[int]]:
    """Positions of ``count`` references, dealt at random into clusters of nearly equal size."""
    rng = np.random.default_rng(int(digest(f"adaptive:{seed}:clusters"), 16))
    parts = np.array_split(rng.permutation(count), min(clusters, count))
    return [[int(i) for i in part] for part in parts]


@dataclass(frozen=True)
class _Known:
    """What is measured once: the clusters, and how to predict and measure a step's effect."""

    ctx: Context
    trip: Excursion
    clusters: list[list[int]]
    """Positions of references."""
    batches: list[Sequence[Batch]]
    """The references of each cluster, laid out."""
    gradients: list[Tensors]
    """Mean gradient of each cluster after the empty step."""
    null_dot: Array
    """Its product with the empty step, shape [cluster]."""
    null: Array
    """Losses after the empty step, shape [reference]."""
    mean: Tensors
    """Mean gradient of all references after the empty step."""
    null_whole: float
    """Its product with the empty step."""

    def step(self, example: Example) -> Tensors:
        """What a step on the candidate adds to the weights: all that is used of its gradient."""
        from influbench.derivatives import gradients

        update = self.trip.update
        return update.delta(gradients.gradient(self.ctx.student, update.weights, example))

    def whole(self, step: Tensors) -> float:
        """First-order score of one candidate on all references: one product, not one a cluster."""
        return self.null_whole - _dot(self.mean, step)

    def predict(self, step: Tensors, clusters: Sequence[int] | None = None) -> Array:
        """First-order scores of one candidate, h, shape [cluster], weighted by size."""
        chosen = range(len(self.clusters)) if clusters is None else clusters
        return self._weighted(self.raw(step, chosen), chosen)

    def raw(self, step: Tensors, clusters: Sequence[int]) -> Array:
        """First-order scores of one candidate on some clusters, shape [cluster]."""
        return np.array([self.null_dot[c] - _dot(self.gradients[c], step) for c in clusters])

    def measure(self, step: Tensors, clusters: Sequence[int]) -> list[float]:
        """Exact scores of one candidate, f, on some clusters."""
        import torch

        from influbench.derivatives import gradients

        student, out = self.ctx.student, []
        with self.trip.undone():
            with torch.no_grad():
                for slot, moved in zip(self.trip.update.slots, step, strict=True):
                    slot.weight.copy_(slot.master.to(moved.device) + moved)
            for cluster in clusters:
                members = self.clusters[cluster]
                losses = gradients.losses_of(student, self.batches[cluster])
                out.append(float((self.null[members] - losses).mean()))
        return [float(x) for x in self._weighted(np.array(out), clusters)]

    def references(self, clusters: int) -> int:
        """How many references the first clusters hold."""
        return sum(map(len, self.clusters[:clusters]))

    def _weighted(self, values: Array, clusters: Sequence[int]) -> Array:
        """Cluster means weighted so that their plain mean is the mean over references."""
        sizes = np.array(list(map(len, self.clusters)))
        return values * sizes[list(clusters)] * len(sizes) / sizes.sum()


def _prepare(ctx: Context, clusters: int, *, clip: bool) -> _Known:
    import torch

    from influbench.derivatives import gradients, step

    members = deal(len(ctx.reference), clusters, ctx.seed)
    clustered = [[ctx.reference[i] for i in part] for part in members]
    trip = step.excursion(step.next_update(ctx.student, clip=clip))
    empty = trip.update.delta(None)
    kept: list[Tensors] = []
    mean: Tensors = []
    with trip.stepped(None):
        null = gradients.losses(ctx.student, list(ctx.reference))
        for part in clustered:
            found = gradients.mean_gradient(ctx.student, trip.update.weights, part)
            kept.append([g.bfloat16() if g.dtype == torch.float32 else g for g in found])
            share = len(part) / len(ctx.reference)
            if not mean:
                mean = [torch.zeros_like(g) for g in found]
            for whole, own in zip(mean, found, strict=True):
                whole.add_(own, alpha=share)
    null_dot = np.array([_dot(g, empty) for g in kept])
    batches = [ctx.student.batches(part) for part in clustered]
    null_whole = _dot(mean, empty)
    return _Known(ctx, trip, members, batches, kept, null_dot, null, mean, null_whole)


def _dot(left: Tensors, right: Tensors) -> float:
    from influbench.derivatives import gradients

    return gradients.dot([g.to(d.dtype) for g, d in zip(left, right, strict=True)], right)


def _groups(examples: Examples) -> list[list[int]]:
    """Positions of siblings; an example without a group is one of its own."""
    found: dict[tuple[str, str], list[int]] = {}
    for i, example in enumerate(examples):
        key = ("group", example.group) if example.group else ("alone", example.id)
        found.setdefault(key, []).append(i)
    return list(found.values())
