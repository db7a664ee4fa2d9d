"""bergson behind the file contract: dot products, TrackStar and EK-FAC + CG, kept in memory.

What ``bergson score`` does between its files: one pass over the references with its in-memory
collector, aggregated to their mean; then for each job a pass over the candidates, scored module by
module as the gradients arise, with nothing written. TrackStar's steps are those of
``bergson trackstar``: second moments of projected gradients over warm-up set and references, mixed,
and their inverse root on both sides of a cosine. EK-FAC + CG is in ``bergson_curvature``. As in
bergson's own set-up all weights are frozen but the input embedding, so that no weight gradient is
built twice.
"""

# The toolkit is in its own environment, where this file runs: its types are unknown here.
# pyright: reportMissingImports=false, reportUnknownParameterType=false
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import bergson_curvature
import numpy as np
import response_loss
import torch
from bergson import (
    CollectorComputer,
    GradientProcessor,
    IndexConfig,
    InMemoryCollector,
    PreprocessConfig,
    Scorer,
)
from bergson.hessians.preconditioner import DensePreconditioner
from bergson.score.score_writer import InMemorySequenceScoreWriter
from bergson.utils.math import compute_lambda
from datasets import Dataset
from file_worker import Row, read_rows, serve
from file_worker import Scorer as Score

UNITS = {
    "dot": "inner product of gradients, mean nats a response token",
    "trackstar": "cosine of projected, whitened gradients",
    "ekfac_cg": "gradient · inverse curvature · gradient, mean nats a response token",
}


def dataset(rows: Sequence[Row]) -> Dataset:
    """Rows as bergson reads them: ids, and labels with the prompt masked."""
    masked = response_loss.IGNORED
    labels = [[masked] * len(row.ids) for row in rows]
    for row, own in zip(rows, labels, strict=True):
        for position in row.learned:
            own[position] = row.ids[position]
    return Dataset.from_dict({"input_ids": [row.ids for row in rows], "labels": labels})


def mean_of_units(gradients: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The mean over rows of rows that are 1 long over all modules, shape [1, width] each."""
    squares = [g.float().square().sum(1) for g in gradients.values()]
    length = torch.stack(squares).sum(0).sqrt().clamp(min=1e-30)
    return {n: (g.float() / length[:, None]).mean(0)[None] for n, g in gradients.items()}


def prepare(folder: Path, meta: dict[str, Any]) -> tuple[dict[str, Any], Score]:
    """Collects what the references' gradients are needed for."""
    options = meta["options"]
    model = response_loss.load_model(folder, meta)
    names, share = response_loss.linear_layers(model, set(meta["trained"]), biases=False)
    _only_hooks(model)
    prefix = f"{model.base_model_prefix}."  # bergson names modules below the base model
    modules = {name.removeprefix(prefix) for name in names}
    width, seed = options.get("width", 0), meta["seed"]

    budget = min(meta["token_budget"], options["tokens"])

    def projecting() -> GradientProcessor:
        return GradientProcessor(projection_dim=width or None, projection_seed=seed)

    # bergson leaves a count of tokens beside its index, even where it keeps no index.
    cfg = IndexConfig(run_path=str(folder / "run"), loss_reduction="mean")
    cfg.projection_dim, cfg.projection_seed = width, seed
    cfg.partial_run_path.mkdir()

    def collected(
        rows: Sequence[Row], processor: GradientProcessor, **more: Any
    ) -> InMemoryCollector:
        held = dataset(rows)
        collector = InMemoryCollector(
            model=model.base_model,
            data=held,
            cfg=cfg,
            processor=processor,
            target_modules=modules,
            **more,
        )
        parts = response_loss.batches(rows, budget)
        computer = CollectorComputer(model, held, collector=collector, batches=parts, cfg=cfg)
        computer.run_with_collector_hooks(desc="job")
        return collector

    references = read_rows(folder / "references.jsonl")
    device = next(model.parameters()).device
    scoring: dict[str, Any] = {}
    diagnostics: dict[str, float] = {}
    if options["method"] in ("dot", "ekfac_cg"):
        told = PreprocessConfig(aggregation="mean")
        mean = collected(references, projecting(), preprocess_cfg=told)
        query = {name: values.clone() for name, values in mean.gradients.items()}
        if options["method"] == "ekfac_cg":
            warmup = read_rows(folder / "warmup.jsonl")
            parts = response_loss.batches(warmup, budget)
            query, diagnostics["cg_residual"] = bergson_curvature.solved(
                model, query, dataset(warmup), parts, cfg, meta, folder
            )
            _only_hooks(model)
    else:
        fitted, asked = projecting(), projecting()
        warmup = read_rows(folder / "warmup.jsonl")
        collected(warmup, fitted, skip_hessians=False)
        own = collected(references, asked, skip_hessians=False).gradients
        # Beyond what both sets span eigenvalues are rounding, and λ would be a ratio of it.
        spans = [min(len(h), len(references), len(warmup)) for h in asked.hessians.values()]
        components = min(options["components"], sum(spans))
        share_of_own = compute_lambda(asked.hessians_eigen, fitted.hessians_eigen, components)
        diagnostics.update(components=components, mixing=share_of_own)
        mixed = {
            name: share_of_own * asked.hessians[name] + (1 - share_of_own) * fitted.hessians[name]
            for name in own
        }
        whiten = DensePreconditioner.from_processor(
            replace(asked, hessians=mixed, hessians_eigen={}), power=-0.5, device=device
        )
        query = mean_of_units(whiten.apply({name: g.to(device) for name, g in own.items()}))
        scoring = {"unit_normalize": True, "index_transform": whiten.apply}

    def score(rows: Sequence[Row]) -> np.ndarray:
        writer = InMemorySequenceScoreWriter(len(rows), 1)
        scorer = Scorer(query, list(query), writer, device, torch.float32, **scoring)
        collected(rows, projecting(), scorer=scorer)
        return writer.scores[:, 0].double().numpy()

    facts = {
        "toolkit": "bergson",
        "version": version("bergson"),
        "unit": UNITS[options["method"]],
        "parameter_share": share,
        "diagnostics": diagnostics,
    }
    return facts, score


def _only_hooks(model: Any) -> None:
    """No weight gradient is built by torch; what reaches the embedding takes gradients past all."""
    model.requires_grad_(False)
    model.get_input_embeddings().requires_grad_(True)


if __name__ == "__main__":
    serve(prepare)
