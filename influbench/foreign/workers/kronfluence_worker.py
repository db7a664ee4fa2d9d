"""kronfluence behind the file contract: K-FAC family, mean reference gradient preconditioned once.

kronfluence's own ``compute_pairwise_scores`` takes the queries' gradients anew in every call,
which would make a chunk of eight candidates pay for all references. Its parts are therefore called
here in the same order: aggregate the query gradient, precondition it, keep it, and take dot
products with whatever candidates come (``score/pairwise.py`` and ``score/dot_product.py``, version
1.0.1).
"""

# The toolkit is in its own environment, where this file runs: its types are unknown here.
# pyright: reportMissingImports=false, reportUntypedBaseClass=false
# pyright: reportUnknownParameterType=false
from __future__ import annotations

import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import response_loss
import torch
from file_worker import Row, Scorer, read_rows, serve
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.module import TrackedModule
from kronfluence.module.tracked_module import ModuleMode
from kronfluence.module.utils import (
    finalize_all_iterations,
    prepare_modules,
    set_factors,
    set_mode,
    update_factor_args,
    update_score_args,
)
from kronfluence.score.dot_product import compute_dot_products_with_loader
from kronfluence.task import Task
from kronfluence.utils.constants import ACCUMULATED_PRECONDITIONED_GRADIENT_NAME as QUERY
from kronfluence.utils.constants import ALL_MODULE_NAME
from torch.amp.grad_scaler import GradScaler
from torch.nn import functional
from torch.utils.data import DataLoader

UNIT = "gradient · inverse curvature · gradient, mean nats a response token"
Batch = dict[str, torch.Tensor]


class ResponseTask(Task):
    """The student's loss, and labels sampled from the model for the true Fisher."""

    def __init__(self, names: list[str], seed: int, references: int):
        self._names = names
        self._generator = torch.Generator().manual_seed(seed)
        self._references = references

    def compute_train_loss(self, batch: Batch, model: Any, sample: bool = False) -> torch.Tensor:
        """Summed over rows, so that each row's gradient is its own loss's.

        With sampled labels a row's log-likelihood is divided by √(its tokens): the expected outer
        product of its gradient is then the Gauss-Newton matrix of its *mean* loss.
        """
        ids, labels = batch["ids"], batch["labels"]
        if not sample:
            return response_loss.losses(model, ids, labels).sum()
        logits = response_loss.response_logits(model, ids, labels)
        chosen = labels != response_loss.IGNORED
        drawn = torch.multinomial(logits.detach().softmax(-1).cpu(), 1, generator=self._generator)
        nll = functional.cross_entropy(logits, drawn[:, 0].to(logits.device), reduction="none")
        tokens = chosen.sum(1).clamp(min=1)[torch.nonzero(chosen)[:, 0]]
        return (nll / tokens.sqrt()).sum()

    def compute_measurement(self, batch: Batch, model: Any) -> torch.Tensor:
        """The row's share of the mean reference loss."""
        return self.compute_train_loss(batch, model) / self._references

    def get_influence_tracked_modules(self) -> list[str]:
        """All linear layers but the output embedding."""
        return self._names

    def get_attention_mask(self, batch: Batch) -> torch.Tensor:
        """1 for tokens, 0 for padding."""
        return batch["mask"]


def loader(rows: Sequence[Row], meta: dict[str, Any], *, batch_size: int) -> DataLoader[Batch]:
    """Batches of rows in their order, each padded to its longest."""

    def collate(part: list[Row]) -> Batch:
        ids, labels = response_loss.padded(part, meta["pad"])
        lengths = torch.tensor([len(row.ids) for row in part])
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        return {"ids": ids, "labels": labels, "mask": mask}

    held: Any = list(rows)  # a list is all that a loader needs of a Dataset
    return DataLoader(held, batch_size=batch_size, collate_fn=collate)


def tracked(model: Any) -> list[TrackedModule]:
    """The modules that kronfluence looks at."""
    return [m for m in model.modules() if isinstance(m, TrackedModule)]


def prepare(folder: Path, meta: dict[str, Any]) -> tuple[dict[str, Any], Scorer]:
    """Fits the factors on the warm-up set and preconditions the mean reference gradient."""
    options = meta["options"]
    model = response_loss.load_model(folder, meta)
    linear, share = response_loss.linear_layers(model, set(meta["trained"]), biases=True)
    references = read_rows(folder / "references.jsonl")
    task = ResponseTask(linear, meta["seed"], len(references))
    model = prepare_model(model, task)
    factor_args = FactorArguments(strategy=options["strategy"])
    score_args = ScoreArguments(damping_factor=options["damping"])
    with tempfile.TemporaryDirectory(dir=folder) as output:
        analyzer = Analyzer(
            "influbench",
            model,
            task,
            cpu=meta["device"] == "cpu",
            disable_tqdm=True,
            output_dir=output,
        )
        factors = _fit(analyzer, factor_args, read_rows(folder / "warmup.jsonl"), meta)
    update_factor_args(model=model, factor_args=factor_args)
    update_score_args(model=model, score_args=score_args)
    state, names = analyzer.state, linear
    set_mode(model, ModuleMode.GRADIENT_AGGREGATION, names, release_memory=True)
    for name, values in factors.items():
        set_factors(model=model, factor_name=name, factors=values, clone=True)
    prepare_modules(model=model, tracked_module_names=names, device=state.device)
    for batch in loader(references, meta, batch_size=1):
        moved = {key: value.to(state.device) for key, value in batch.items()}
        task.compute_measurement(moved, model).backward()
    set_mode(model, ModuleMode.PRECONDITION_GRADIENT, names, release_memory=False)
    finalize_all_iterations(model=model, tracked_module_names=names)
    query = {module.name: module.storage[QUERY] for module in tracked(model)}

    def dot_products(rows: Sequence[Row]) -> torch.Tensor:
        for module in tracked(model):  # the dot products take it away when they end
            module.storage[QUERY] = query[module.name]
        scores = compute_dot_products_with_loader(
            model=model,
            task=task,
            state=state,
            train_loader=loader(rows, meta, batch_size=len(rows)),
            factor_args=factor_args,
            score_args=score_args,
            tracked_module_names=names,
            scaler=GradScaler("cuda", enabled=False),
            disable_tqdm=True,
        )
        assert isinstance(scores, dict)
        return scores[ALL_MODULE_NAME][0]

    def score(rows: Sequence[Row]) -> np.ndarray:
        out = np.empty(len(rows))
        for part in response_loss.batches(rows, meta["token_budget"]):
            out[part] = dot_products([rows[i] for i in part]).double().numpy()
        return out

    facts = {
        "toolkit": "kronfluence",
        "version": version("kronfluence"),
        "unit": UNIT,
        "parameter_share": share,
    }
    return facts, score


def _fit(
    analyzer: Analyzer, factor_args: FactorArguments, warmup: Sequence[Row], meta: dict[str, Any]
) -> dict[str, Any]:
    """Factors by name. One example a batch: no padding enters a covariance."""
    if factor_args.strategy == "identity":
        return {}
    analyzer.fit_all_factors(
        factors_name="fit",
        dataset=_Rows(warmup, meta["pad"]),
        per_device_batch_size=1,
        factor_args=factor_args,
    )
    return analyzer.load_all_factors("fit")


class _Rows(torch.utils.data.Dataset[Batch]):
    """Rows as kronfluence's own loader wants them: one dictionary of tensors each."""

    def __init__(self, rows: Sequence[Row], pad: int):
        self._rows = rows
        self._pad = pad

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, position: int) -> Batch:
        ids, labels = response_loss.padded([self._rows[position]], self._pad)
        return {"ids": ids[0], "labels": labels[0], "mask": torch.ones_like(ids[0])}


if __name__ == "__main__":
    serve(prepare)
