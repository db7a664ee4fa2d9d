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
one-sided projections of the gradients of all trained linear layers (``derivatives.adapters``). The
embedding, a tied head and the norms are then left out: ``parameter_share`` among the diagnostics
says how much remains. ``auto`` takes ``all`` up to half a million parameters or where the student
is itself a LoRA model.

With several ``checkpoints`` (the student, and where its training would come to next) ``kernel``
says how their features meet:

    each     one K a checkpoint, scores averaged (TRAK's ensemble)
    summed   one K for all, the sum of theirs
    joint    features of all checkpoints side by side, one K over them: it also sees what two
             checkpoints have in common

and Q is averaged over checkpoints. ``output`` is f: the margin, or the mean log-likelihood with
Q = 1, the loss that every other row takes the gradient of.

Source: Park et al., TRAK, arXiv 2303.14186, and its package ``traker`` 0.3. Deviations: candidates
are no training examples of the kernel, which is fitted on the warm-up set; checkpoints are states
of one training, not of several; attention by the math kernel in the weights' own precision. Scores
are in traker's arbitrary unit.
Cost: 3(W + M) passes to prepare and 4 per candidate, a checkpoint, and 3W for all further ones;
with ``lora`` no weight gradients, so a backward costs about one forward.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from influbench.errors import UserError, require
from influbench.estimator import Context, Examples, Facts, Need, Scorer, Scores
from influbench.files import digest

if TYPE_CHECKING:
    import torch

    from influbench.student import LanguageStudent

Output = Literal["margin", "log_likelihood"]
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
    checkpoints: int = 1
    """States of the student."""
    kernel: Literal["each", "summed", "joint"] = "each"
    """How the features of several checkpoints meet."""
    output: Output = "margin"
    """What gradients are taken of."""

    @property
    def facts(self) -> Facts:
        """Moments where further checkpoints are stepped to."""
        needs: set[Need] = {"gradients", "language_model", "warmup"}
        count = self.checkpoints
        if count > 1:
            needs.add("moments")
        # The log-likelihood has Q = 1: no pass to know it.
        each = 4 if self.output == "margin" else 3
        fitting = 3 if count == 1 else 3 * count + 3
        passes = f"{fitting}W + {3 * count}M", f"{each * count}"
        return Facts("signed", "TRAK, arXiv 2303.14186 (traker)", needs, passes, stderr=True)

    def __post_init__(self) -> None:
        if self.checkpoints < 1:
            raise ValueError(f"option 'checkpoints' must be at least 1, got {self.checkpoints}")
        if self.regularisation <= 0:
            raise ValueError(f"option 'regularisation' must be > 0, got {self.regularisation}")

    def prepare(self, ctx: Context) -> Scorer:
        """Fits the kernel on the warm-up set and applies its inverse to the references."""
        ctx.package("trak", "trak")
        import torch
        from trak.score_computers import BasicScoreComputer

        from influbench.derivatives.similarity import mean_over_references
        from influbench.estimators.trak import checkpoints
        from influbench.student.placement import check_whole

        student = ctx.language_student()
        check_whole(student, "trak")
        warmup = ctx.warmup_of(1)
        seed = int(digest(f"trak:{ctx.seed}")[:7], 16)
        states = checkpoints.following(ctx, self.checkpoints)
        fitted: list[torch.Tensor] = []
        asked: list[torch.Tensor] = []
        share, project = 0.0, None
        for state in states:
            with state.placed(), self._attributed(student, seed) as chosen:
                share = ctx.share(chosen.share, self.min_share)
                project = project or self._projection(student, chosen, seed)
                fitted.append(_features(student, chosen, self.output, project, warmup))
                asked.append(_features(student, chosen, self.output, project, ctx.reference))
        device = student.model.device
        targets = self._solved(fitted, asked, device)
        computer = BasicScoreComputer(torch.float32, device, logging_level=30)

        def score(examples: Examples) -> Scores:
            table = torch.zeros(len(examples), len(ctx.reference))
            wrongness = torch.zeros(len(examples), 1)
            for state, target in zip(states, targets, strict=True):
                with state.placed(), self._attributed(student, seed) as now:
                    features = _features(student, now, self.output, project, examples)
                    wrongness += _out_to_loss(student, now, self.output, examples).cpu()
                computer.get_scores(features, target, accumulator=table)
            table, wrongness = table / len(states), wrongness / len(states)
            facts = {"parameter_share": share, "projection_dim": float(targets[0].shape[1])}
            return mean_over_references((table * wrongness).double().numpy(), facts)

        return score

    def _solved(
        self, fitted: list[torch.Tensor], asked: list[torch.Tensor], device: torch.device
    ) -> list[torch.Tensor]:
        """(K + λI)⁻¹ φ(r) for each checkpoint, shape [reference, feature]."""
        import torch

        if self.kernel == "joint":
            width = fitted[0].shape[1]
            solved = self._inverted(torch.cat(fitted, 1), torch.cat(asked, 1), device)
            return list(solved.split(width, dim=1))
        if self.kernel == "summed":
            solved = self._inverted(torch.cat(fitted), torch.cat(asked), device)
            return list(solved.split(len(asked[0])))
        return [self._inverted(f, a, device) for f, a in zip(fitted, asked, strict=True)]

    def _inverted(
        self, phi: torch.Tensor, targets: torch.Tensor, device: torch.device
    ) -> torch.Tensor:
        """The same for one kernel, fitted on the rows of ``phi``."""
        import torch
        from trak.score_computers import BasicScoreComputer

        kernel = BasicScoreComputer(torch.float32, device, logging_level=30).get_xtx(phi)
        computer = BasicScoreComputer(
            torch.float32,
            device,
            logging_level=30,
            lambda_reg=self.regularisation * float(kernel.trace()) / len(kernel),
        )
        return computer.get_x_xtx_inv(targets, kernel)

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
    student: LanguageStudent,
    chosen: Attributed,
    output: Output,
    projector: Any,
    examples: Examples,
) -> torch.Tensor:
    """Projected gradients of f, shape [example, proj_dim], fp32."""
    computer = _gradient_computer(student, chosen, output)
    scale = computer.grad_dim**-0.5  # traker's own normalisation

    def one(batch: Any) -> torch.Tensor:
        return (
            projector.project(computer.compute_per_sample_grad(batch), model_id=0).float() * scale
        )

    return _by_batch(student, examples, one)


def _out_to_loss(
    student: LanguageStudent, chosen: Attributed, output: Output, examples: Examples
) -> torch.Tensor:
    """Q of each example, shape [example, 1]."""
    import torch

    if output == "log_likelihood":
        return torch.ones(len(examples), 1)
    computer = _gradient_computer(student, chosen, output)
    return _by_batch(student, examples, computer.compute_loss_grad)


def _gradient_computer(student: LanguageStudent, chosen: Attributed, output: Output) -> Any:
    import torch
    from trak.gradient_computers import FunctionalGradientComputer

    from influbench.estimators.trak.causal_margin import CausalLogLikelihood, CausalMargin

    # The constructor copies all parameters of its model to count them: it gets an empty one.
    computer = FunctionalGradientComputer(
        model=torch.nn.Linear(1, 1, device="meta"),
        task=CausalMargin() if output == "margin" else CausalLogLikelihood(),
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
