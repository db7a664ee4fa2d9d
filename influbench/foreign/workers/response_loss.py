"""The student's loss in a toolkit's environment: mean over response tokens, in nats."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from file_worker import Row, watch
from torch.nn import functional
from transformers import AutoModelForCausalLM, PreTrainedModel

IGNORED = -100
SCALES = {"logit_scale": 1, "lm_head_multiplier": 1, "logits_scaling": -1}
"""As in ``influbench.student.language_student``, which is not installed here."""


def load_model(folder: Path, meta: dict[str, Any]) -> Any:
    """The student's network, fp32, eval mode, where the student is; its passes are counted."""
    torch.set_num_threads(meta["threads"])
    model = AutoModelForCausalLM.from_pretrained(
        folder / "model", dtype=torch.float32, trust_remote_code=False
    )
    watch(decoder_of(model))
    return model.to(meta["device"]).eval()


def padded(rows: Sequence[Row], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and next-token labels, shape [row, time], padded on the right.

    Labels stand where they are predicted; prompt and padding hold ``IGNORED``.
    """
    longest = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), longest), pad)
    labels = torch.full((len(rows), longest), IGNORED)
    for number, row in enumerate(rows):
        ids[number, : len(row.ids)] = torch.tensor(row.ids)
        learned = torch.tensor(row.learned)
        labels[number, learned - 1] = torch.tensor(row.ids)[learned]
    return ids, labels


def decoder_of(model: Any) -> Any:
    """As ``backbone`` in ``influbench.store.passes``."""
    inside = [child for child in model.children() if isinstance(child, PreTrainedModel)]
    said = [model.get_decoder(), model.base_model, *(inside if len(inside) == 1 else [])]
    return next(own for own in said if isinstance(own, PreTrainedModel) and own is not model)


def response_logits(model: Any, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Logits where a response token is predicted, shape [token, vocabulary]."""
    hidden = decoder_of(model)(input_ids=ids, use_cache=False).last_hidden_state
    logits = model.get_output_embeddings()(hidden[labels != IGNORED]).float()
    for name, power in SCALES.items():
        scale = getattr(model.config, name, None)
        logits = logits if scale is None else logits * scale**power
    cap = getattr(model.config, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


def losses(model: Any, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Loss of each row, shape [row]; a row of padding alone has none and gets 0."""
    chosen = labels != IGNORED
    nll = functional.cross_entropy(
        response_logits(model, ids, labels), labels[chosen], reduction="none"
    )
    row_of = torch.nonzero(chosen)[:, 0]
    sums = torch.zeros(len(ids), dtype=nll.dtype, device=nll.device).index_add(0, row_of, nll)
    return sums / chosen.sum(1).clamp(min=1)


def batches(rows: Sequence[Row], budget: int) -> list[list[int]]:
    """Positions by similar length, rows × longest row under ``budget`` tokens."""
    out: list[list[int]] = []
    for position in sorted(range(len(rows)), key=lambda i: len(rows[i].ids)):
        if out and (len(out[-1]) + 1) * len(rows[position].ids) <= budget:
            out[-1].append(position)
        else:
            out.append([position])
    return out


def linear_layers(model: Any, trained: set[str], *, biases: bool) -> tuple[list[str], float]:
    """Names of the trained linear layers but the output embedding; their share of what is trained.

    Args:
        model: the student's network.
        trained: names of its trained parameters.
        biases: whether the toolkit takes their biases too; they count in the share if trained.
    """
    head = model.get_output_embeddings()
    names = [
        name
        for name, module in model.named_modules()
        if type(module) is torch.nn.Linear and module is not head and f"{name}.weight" in trained
    ]
    if not names:
        sys.exit("the student trains no linear layer below its output embedding")
    parts = ("weight", "bias") if biases else ("weight",)
    taken = {f"{name}.{part}" for name in names for part in parts}
    sizes = {name: p.numel() for name, p in model.named_parameters() if name in trained}
    covered = sum(size for name, size in sizes.items() if name in taken)
    return names, covered / sum(sizes.values())
