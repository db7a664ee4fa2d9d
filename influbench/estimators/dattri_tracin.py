"""TracIn through dattri-llm: gradient dot product from captured activations and output gradients.

    score(z) = Σ_l ⟨∇_l L_ref(θ), ∇_l ℓ(z)⟩,   ∇_l ℓ(z) = Σ_s b_s a_sᵀ

dattri-llm's hooks capture each linear layer's inputs a and output gradients b of a batch; its
kernels turn the references into one dense mean gradient, once, and take its inner product with
the candidates' gradients. All linear layers below the output embedding take part; the embedding, a
tied head and the norms are left out (``parameter_share`` among the diagnostics says how much
remains), so this is ``gradient_dot`` over those layers.

Source: Pruthi et al., TracIn, arXiv 2002.08484, in dattri-llm 0.1 (arXiv 2609.38767). Deviations:
one checkpoint; the pass backward stops short of weight gradients, which capturing does not need;
the references are averaged before the product, which is linear, so there is no score a reference.
Cost: 3M passes to prepare, 3 per candidate.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from influbench.errors import UserError
from influbench.estimator import Context, Examples, Facts, Scorer, Scores

if TYPE_CHECKING:
    from influbench.student import LanguageStudent


@dataclass(frozen=True)
class DattriTracin:
    """dattri-llm's gradient dot product over linear layers."""

    batch_tokens: int = 512
    """Padded tokens in one batch; more need more memory for the candidates' dense gradients."""
    min_share: float = 0.0
    """Refuse to attribute a smaller share of the parameters; 0, as the method is partial."""

    facts = Facts(
        "signed",
        "TracIn, arXiv 2002.08484 (dattri-llm)",
        {"gradients", "language_model"},
        ("3M", "3"),
    )

    def prepare(self, ctx: Context) -> Scorer:
        """Captures the references and makes them one dense gradient."""
        ctx.package("dattri_llm", "dattri")
        import torch
        from dattri_llm.attribution.utils import finalize_factors
        from dattri_llm.gradient import ops
        from dattri_llm.gradient.gradient import Gradient

        from influbench.student.placement import check_whole

        student = ctx.language_student()
        check_whole(student, "dattri_tracin")
        names = linear_layers(student)
        share = ctx.share(covered(student, names), self.min_share)
        total: dict[str, Any] = {}
        types: dict[str, str] = {}
        for part, block in self._blocks(student, names, ctx.reference):
            assert block.batch_size == len(part)
            for name in names:
                dense = ops.materialize(block.data[name], block.layer_types[name])
                mean = dense.sum(0, keepdim=True) / len(ctx.reference)
                total[name] = total[name].add_(mean) if name in total else mean
                types[name] = block.layer_types[name]
        query = Gradient(
            representation=dict.fromkeys(names, "materialized"), data=total, layer_types=types
        )

        def score(examples: Examples) -> Scores:
            values = np.empty(len(examples))
            for part, block in self._blocks(student, names, examples):
                products = ops.layerwise_cross_dot(finalize_factors(block), query)
                assert isinstance(products, torch.Tensor)  # not a table by layer
                values[part] = products[:, 0].double().cpu().numpy()
            return Scores(value=values, diagnostics={"parameter_share": share})

        return score

    def _blocks(
        self, student: LanguageStudent, names: list[str], examples: Examples
    ) -> Iterator[tuple[list[int], Any]]:
        """Positions and captured gradients, a batch at a time; the model is left as it was."""
        import torch

        with _hooked(student, names) as (capture, embedded):
            for batch in student.batches(examples, learning=True, at_most=self.batch_tokens):
                with torch.enable_grad():
                    try:
                        loss = student.loss(batch).sum()
                    except RuntimeError as error:
                        if "modified inplace" not in str(error):
                            raise
                        raise UserError(
                            "estimator 'dattri_tracin': dattri-llm's hooks do not work on models "
                            f"of type '{student.model.config.model_type}', which add to what a "
                            "layer gave in place: choose gradient_dot"
                        ) from error
                    # Through every layer, but to no weight.
                    torch.autograd.grad(loss, embedded.pop())
                yield list(batch.positions), capture.record.gradient


def linear_layers(student: LanguageStudent) -> list[str]:
    """Names of the trained linear layers below the output embedding, as the decoder calls them.

    Raises:
        UserError: there is none.
    """
    import torch

    from influbench.models.decoder import decoder_of

    modules = decoder_of(student.model).named_modules()
    names = [n for n, m in modules if type(m) is torch.nn.Linear and m.weight.requires_grad]
    if not names:
        raise UserError(
            "estimator 'dattri_tracin' attributes linear layers and the student trains none below "
            "its output embedding: choose gradient_dot"
        )
    return names


def covered(student: LanguageStudent, names: Sequence[str]) -> float:
    """Share of the trainable parameters that those layers hold."""
    from influbench.models.decoder import decoder_of

    held = [p for name in names for p in decoder_of(student.model).get_submodule(name).parameters()]
    total = sum(p.numel() for p in student.model.parameters() if p.requires_grad)
    return sum(p.numel() for p in held if p.requires_grad) / total


@contextmanager
def _hooked(student: LanguageStudent, names: list[str]) -> Generator[tuple[Any, list[Any]]]:
    """dattri-llm's capture on those layers, and where the embedding's outputs are put.

    Every hook is gone afterwards.
    """
    from dattri_llm.gradient.callbacks import CaptureCallback
    from dattri_llm.gradient.hooks import HookManager, HookManagerConfig

    from influbench.models.decoder import decoder_of

    embedded: list[Any] = []

    def keep(_: Any, __: Any, output: Any) -> None:
        embedded.append(output.requires_grad_())  # what a frozen embedding gives needs no gradient

    handle = student.model.get_input_embeddings().register_forward_hook(keep)
    capture = CaptureCallback()
    manager = HookManager(
        decoder_of(student.model),
        config=HookManagerConfig(hook_types=dict.fromkeys(names, "invasive_linear_io")),
        callbacks=[capture],
    )
    try:
        with manager.collect():
            yield capture, embedded
    finally:
        manager.remove()
        handle.remove()
