"""TRAK: influence under a kernel of projected gradients, by the ``traker`` package.

    φ(z) = Pᵀ ∇f(z, θ)         K = Σ_w φ(w) φ(w)ᵀ over the warm-up set
    score(z) = mean over references r of  φ(r)ᵀ (K + λI)⁻¹ φ(z) · Q(z)

f is the mean over response tokens of log(p / (1 - p)), p the token's probability, and Q = 1 - p,
averaged alike (``causal_margin``). Averaging keeps long responses from dominating, as
everywhere here; traker's own text models have one token to classify and need no such choice. λ is
``regularisation`` times the mean eigenvalue of K, which is singular where the warm-up set is
smaller than ``proj_dim``: with λ = 0 the scores would be noise.

Parameters: ``all`` trainable ones, a regular expression over their names, or ``lora``: adapters
with B = 0 are injected and taken out again, and the gradients are those of B, which are random
one-sided projections of the full gradients of all linear layers (``derivatives.adapters``).
The embedding, a tied head and the norms are then left out: ``parameter_share`` among the
diagnostics says how much remains. ``auto`` takes ``all`` up to half a million parameters or where
the student is itself a LoRA model.

Source: Park et al., TRAK, arXiv 2303.14186, and its package ``traker`` 0.3. Deviations: one
checkpoint, the student; candidates are no training examples of the kernel, which is fitted on the
warm-up set; attention by the math kernel in the weights' own precision. Scores are in traker's
arbitrary unit.
Cost: 3(W + M) passes to prepare, 4 per candidate; with ``lora`` no weight gradients, so a backward
costs about one forward.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from influbench.errors import UserError, require
from influbench.estimator import Context, Examples, Facts, Scorer, Scores
from influbench.files import digest

if TYPE_CHECKING:
    import torch

    from influbench.student import LanguageStudent

SMALL = 500_000
"""Up to so many trainable parameters ``auto`` takes them all."""
WIDEST = 8192
"""Most parameters without a projection: the kernel has as many rows and columns."""
VMAP_TOKENS = 512
"""Padded tokens in one batch: under ``vmap`` several copies of their logits exist at one time."""
MATRIX_BYTES = 2 << 30
"""Limit of the projection matrix; a larger one is drawn anew, in parts, for each batch."""


@dataclass(frozen=True)
class Attributed:
    """The parameters that gradients are taken by."""

    weights: dict[str, torch.Tensor]
    share: float
    """Of the trainable parameters, those that the gradients speak for."""


@dataclass(frozen=True)
class Trak:
    """TRAK with a kernel fitted on the warm-up set."""

    proj_dim: int | None = 512
    """Width of the features; None = the gradients themselves (small models only)."""
    parameters: str = "auto"
    """``auto``, ``all``, ``lora``, or a regular expression over parameter names."""
    rank: int = 2
    """Of the injected adapters."""
    regularisation: float = 0.1
    """λ as a share of the kernel's mean eigenvalue; > 0."""
    min_share: float = 0.0
    """Refuse to attribute a smaller share of the parameters; 0, as projections are partial."""

    facts = Facts(
        "signed",
        "TRAK, arXiv 2303.14186 (traker)",
        {"gradients", "language_model", "warmup"},
        ("3W + 3M", "4"),
        stderr=True,
    )

    def __post_init__(self) -> None:
        if self.regularisation <= 0:
            raise ValueError(f"option 'regularisation' must be > 0, got {self.regularisation}")

    def prepare(self, ctx: Context) -> Scorer:
        """Fits the kernel on the warm-up set and applies its inverse to the references."""
        ctx.package("trak", "trak")
        import torch
        from trak.score_computers import BasicScoreComputer

        from influbench.derivatives.similarity import mean_over_references
        from influbench.student.placement import check_whole

        student = ctx.language_student()
        check_whole(student, "trak")
        warmup = ctx.warmup_of(1)
        seed = int(digest(f"trak:{ctx.seed}")[:7], 16)
        with self._attributed(student, seed) as chosen:
            share = ctx.share(chosen.share, self.min_share)
            project = self._projection(student, chosen, seed)
            phi = _features(student, chosen, project, warmup)
            targets = _features(student, chosen, project, ctx.reference)
        device = student.model.device
        kernel = BasicScoreComputer(torch.float32, device, logging_level=30).get_xtx(phi)
        computer = BasicScoreComputer(
            torch.float32,
            device,
            logging_level=30,
            lambda_reg=self.regularisation * float(kernel.trace()) / len(kernel),
        )
        targets = computer.get_x_xtx_inv(targets, kernel)

        def score(examples: Examples) -> Scores:
            with self._attributed(student, seed) as now:
                features = _features(student, now, project, examples)
                wrongness = _out_to_loss(student, now, examples)
            table = torch.zeros(len(examples), len(targets))
            computer.get_scores(features, targets, accumulator=table)
            facts = {"parameter_share": share, "projection_dim": float(phi.shape[1])}
            return mean_over_references((table * wrongness.cpu()).double().numpy(), facts)

        return score

    @contextmanager
    def _attributed(self, student: LanguageStudent, seed: int) -> Generator[Attributed]:
        model = student.model
        trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
        total = sum(p.numel() for p in trainable.values())
        adapted = any("lora_" in name for name in trainable)
        wanted = self.parameters
        if wanted == "auto":
            wanted = "all" if total <= SMALL or adapted else "lora"
        if wanted == "lora":
            require("loop", "estimator 'trak' with parameters = 'lora'")
            from influbench.derivatives.adapters import random_adapters

            with random_adapters(model, self.rank, seed) as injected:
                yield Attributed(injected.weights, injected.covered / total)
            return
        if wanted != "all":
            names = list(trainable)
            trainable = {n: p for n, p in trainable.items() if re.search(wanted, n)}
            if not trainable:
                raise UserError(
                    f"estimator 'trak', option 'parameters': '{wanted}' matches no trainable "
                    f"parameter; expected auto, all, lora, or a pattern of names like {names[:3]}"
                )
        yield Attributed(dict(trainable), sum(p.numel() for p in trainable.values()) / total)

    def _projection(self, student: LanguageStudent, chosen: Attributed, seed: int) -> Any:
        from trak.projectors import BasicProjector, NoOpProjector, ProjectionType

        device = student.model.device
        width = sum(w.numel() for w in chosen.weights.values())
        if self.proj_dim is None:
            if width > WIDEST:
                raise UserError(
                    f"estimator 'trak' without a projection inverts a matrix of {width} rows, one "
                    f"a parameter: expected at most {WIDEST}; set proj_dim, or choose fewer"
                )
            return NoOpProjector(width, width, device=device)
        return BasicProjector(
            grad_dim=width,
            proj_dim=self.proj_dim,
            seed=seed,
            proj_type=ProjectionType("rademacher"),
            device=device,
            block_size=max(1, MATRIX_BYTES // (4 * width)),
        )


def _features(
    student: LanguageStudent, chosen: Attributed, projector: Any, examples: Examples
) -> torch.Tensor:
    """Projected gradients of f, shape [example, proj_dim], fp32."""
    computer = _gradient_computer(student, chosen)
    scale = computer.grad_dim**-0.5  # traker's own normalisation

    def one(batch: Any) -> torch.Tensor:
        return (
            projector.project(computer.compute_per_sample_grad(batch), model_id=0).float() * scale
        )

    return _by_batch(student, examples, one)


def _out_to_loss(student: LanguageStudent, chosen: Attributed, examples: Examples) -> torch.Tensor:
    """Q of each example, shape [example, 1]."""
    computer = _gradient_computer(student, chosen)
    return _by_batch(student, examples, computer.compute_loss_grad)


def _gradient_computer(student: LanguageStudent, chosen: Attributed) -> Any:
    import torch
    from trak.gradient_computers import FunctionalGradientComputer

    from influbench.estimators.trak.causal_margin import CausalMargin

    # The constructor copies all parameters of its model to count them: it gets an empty one.
    computer = FunctionalGradientComputer(
        model=torch.nn.Linear(1, 1, device="meta"),
        task=CausalMargin(),
        grad_dim=sum(w.numel() for w in chosen.weights.values()),
        dtype=torch.float32,
        device=student.model.device,
    )
    # Gradients by these alone: traker's ``grad_wrt`` would compute all and throw most away.
    computer.model = student.model
    computer.func_weights = {name: w.detach() for name, w in chosen.weights.items()}
    computer.func_buffers = {}
    return computer


def _by_batch(
    student: LanguageStudent, examples: Examples, compute: Callable[[Any], torch.Tensor]
) -> torch.Tensor:
    """``compute`` over batches of similar length, rows in the order of ``examples``."""
    import torch

    from influbench.estimators.trak.causal_margin import stacked

    batches = student.batches(examples, learning=True, at_most=VMAP_TOKENS)
    with torch.no_grad():  # no outer graph: the transforms inside differentiate on their own
        parts = [compute(stacked(batch)) for batch in batches]
    order = torch.tensor([i for batch in batches for i in batch.positions], device=parts[0].device)
    return torch.cat(parts)[order.argsort()]
