"""bergson behind the file contract: dot product with the mean reference gradient, kept in memory.

What ``bergson score`` does between its files: one pass over the references with its in-memory
collector, aggregated to their mean; then for each job a pass over the candidates, scored module by
module as the gradients arise, with nothing written. As in bergson's own set-up all weights are
frozen but the input embedding, so that no weight gradient is built twice.
"""

# pyright: reportMissingImports=false
# The toolkit is in its own environment, where this file runs.
from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

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
from bergson.score.score_writer import InMemorySequenceScoreWriter
from datasets import Dataset
from file_worker import Row, read_rows, serve
from file_worker import Scorer as Score

UNIT = "inner product of gradients, mean nats a response token"


def dataset(rows: Sequence[Row]) -> Dataset:
    """Rows as bergson reads them: ids, and labels with the prompt masked."""
    masked = response_loss.IGNORED
    labels = [[masked] * len(row.ids) for row in rows]
    for row, own in zip(rows, labels, strict=True):
        for position in row.learned:
            own[position] = row.ids[position]
    return Dataset.from_dict({"input_ids": [row.ids for row in rows], "labels": labels})


def prepare(folder: Path, meta: dict[str, Any]) -> tuple[dict[str, Any], Score]:
    """Collects the mean reference gradient."""
    model = response_loss.load_model(folder, meta)
    names, share = response_loss.linear_layers(model, set(meta["trained"]))
    model.requires_grad_(False)
    model.get_input_embeddings().requires_grad_(True)
    prefix = f"{model.base_model_prefix}."  # bergson names modules below the base model
    modules = {name.removeprefix(prefix) for name in names}
    processor = GradientProcessor(projection_dim=None)
    # bergson leaves a count of tokens beside its index, even where it keeps no index.
    cfg = IndexConfig(run_path=str(folder / "run"), loss_reduction="mean", projection_dim=0)
    cfg.partial_run_path.mkdir()

    def collected(rows: Sequence[Row], **options: Any) -> InMemoryCollector:
        held = dataset(rows)
        collector = InMemoryCollector(
            model=model.base_model,
            data=held,
            cfg=cfg,
            processor=processor,
            target_modules=modules,
            **options,
        )
        parts = response_loss.batches(rows, min(meta["token_budget"], meta["options"]["tokens"]))
        computer = CollectorComputer(model, held, collector=collector, batches=parts, cfg=cfg)
        computer.run_with_collector_hooks(desc="job")
        return collector

    references = read_rows(folder / "references.jsonl")
    mean = collected(references, preprocess_cfg=PreprocessConfig(aggregation="mean"))
    query = {name: values.clone() for name, values in mean.gradients.items()}
    device = next(model.parameters()).device

    def score(rows: Sequence[Row]) -> np.ndarray:
        writer = InMemorySequenceScoreWriter(len(rows), 1)
        scorer = Scorer(query, list(query), writer, device, torch.float32)
        collected(rows, scorer=scorer)
        return writer.scores[:, 0].double().numpy()

    facts = {
        "toolkit": "bergson",
        "version": version("bergson"),
        "unit": UNIT,
        "parameter_share": share,
    }
    return facts, score


if __name__ == "__main__":
    serve(prepare)
