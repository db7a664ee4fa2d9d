"""bergson's EK-FAC + CG, in memory: what ``hessian_pipeline`` does with ``astra.solver: cg``.

EK-FAC is fitted on the warm-up set with labels sampled from the model (the true Fisher), the mean
reference gradient is multiplied by its damped inverse, and conjugate gradients go on from there
with products of the Gauss-Newton matrix itself, preconditioned by that inverse
(``bergson/hessians/pipeline.py`` and ``astra.py``, version 2.5.1).
"""

# The toolkit is in its own environment, where this file runs: its types are unknown here.
# pyright: reportMissingImports=false, reportUnknownParameterType=false
# pyright: reportUntypedBaseClass=false
from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from bergson.config import AstraConfig, HessianConfig, IndexConfig, InversionConfig
from bergson.hessians.astra import Astra, GaussNewtonProduct
from bergson.hessians.hessian_approximations import fit_factored_hessians
from bergson.hessians.preconditioner import FactoredPreconditioner
from bergson.utils.logger import get_logger
from datasets import Dataset

RELATIVE_DAMPING = 10.0
"""Times the mean eigenvalue of a layer, in bergson's ``compare_wikitext/ekfac_astra_cg.yaml``."""
Vectors = dict[str, torch.Tensor]


class InMemory(Astra):
    """bergson's solver around a model and documents that are here already."""

    def __init__(
        self,
        preconditioner: FactoredPreconditioner,
        damping: Vectors,
        product: GaussNewtonProduct,
        steps: int,
    ):
        # Not Astra's own: that one reads model and documents from files.
        self.logger = get_logger("Astra")
        self.preconditioner = preconditioner
        self.names = list(preconditioner.lambdas)
        self.damping = damping
        self.hvp = product
        self.num_docs = len(product.data)
        self.cfg = AstraConfig(solver="cg", num_steps=steps, batch_size=self.num_docs)
        self.residual = float("nan")

    def _precondition(self, r: Vectors) -> Vectors:
        self.residual = self._dot(r, r) ** 0.5  # the last call is with what the last step leaves
        return super()._precondition(r)


def solved(
    model: Any,
    query: Vectors,
    documents: Dataset,
    batches: list[list[int]],
    cfg: IndexConfig,
    meta: dict[str, Any],
    folder: Path,
) -> tuple[Vectors, float]:
    """(G + Λ)⁻¹ query.

    Args:
        model: the student's network; left with attention computed step by step, which forward-mode
            derivatives need, and with the gradients of these layers asked for.
        query: the mean reference gradient by module, shape [1, weight] each.
        documents: the warm-up set.
        batches: positions among the documents that go through together.
        cfg: of bergson, with the reduction of the loss.
        meta: options and seed.
        folder: where bergson leaves its factors, for as long as this takes.

    Returns:
        The solution, shaped as the query, and the length of its residual as a share of the query's.
    """
    options = meta["options"]
    torch.manual_seed(meta["seed"])  # bergson samples labels from torch's own generator
    factors = folder / "factors"
    fit_factored_hessians(
        model,
        documents,
        cfg,
        HessianConfig(method="kfac", ev_correction=True),
        target_modules=set(query),
        attention_cfgs={},
        batches=batches,
        path=str(factors),
        do_eigendecomposition=True,
    )
    fixed = options["damping"]
    inversion = (
        InversionConfig(inversion="damped_inverse", damping_factor=RELATIVE_DAMPING)
        if fixed is None
        else InversionConfig(inversion="absolute_damped_inverse", damping_factor=fixed)
    )
    device = next(model.parameters()).device
    preconditioner = FactoredPreconditioner.from_path(
        factors, inversion_cfg=inversion, ev_correction=True, device=device
    )
    shutil.rmtree(factors)
    damping = {
        name: RELATIVE_DAMPING * values.mean() if fixed is None else torch.tensor(fixed)
        for name, values in preconditioner.lambdas.items()
    }
    model.set_attn_implementation("eager")
    longest = max(map(len, documents["input_ids"]))  # the solver shuffles: any rows may meet
    rows = max(1, min(meta["token_budget"], options["tokens"]) // longest)
    product = GaussNewtonProduct(model, documents, cfg, list(damping), micro_batch_size=rows)
    solver = InMemory(preconditioner, damping, product, options["steps"])
    start = preconditioner.apply(query)
    one = {name: query[name][0].float() for name in solver.names}
    found = solver.refine(one, {name: start[name][0].float() for name in one}, 0)
    share = solver.residual / solver._dot(one, one) ** 0.5
    return {name: found[name][None] for name in query}, share
