"""Adapters of peft: merged into their base model, or kept on it with their weights trainable."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from influbench.errors import UserError, require
from influbench.models import sources
from influbench.models.quiet import quiet

if TYPE_CHECKING:  # a second of imports that few need
    from peft import PeftConfig, PeftModel

WEIGHTS = "adapter_model.safetensors"
PROBE = 16
"""Tokens on which a merged model is compared with the adapter beside its base."""


def attach(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """``model`` with the adapter in its layers; the adapter's weights alone are trainable.

    Raises:
        UserError: the adapter does not fit the model.
    """
    return _base(_adapted(model, folder))


def outline(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """The same for a model without memory: names and shapes of weights, no weights."""
    require("loop", f"the adapter in {folder}")
    from peft import get_peft_model

    config = _config(folder)
    config.inference_mode = False
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = get_peft_model(model, config)
    return _base(adapted)


def merge(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """``model`` with the adapter added to its weights, all of them trainable.

    Tied embeddings that the adapter leaves different are no longer tied.

    Raises:
        UserError: the adapter does not fit the model, or cannot be merged into it.
    """
    head = _tied_head(model, folder)
    adapted = _adapted(model, folder)
    with sources.expected("a base model that runs with the adapter in it", folder):
        beside = _logits(_base(adapted))
    if head is not None:  # what is added to the one weight is not added to the other
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
        _say_tied(model, tied=False)
    merged = adapted.merge_and_unload()
    assert isinstance(merged, PreTrainedModel)
    vars(merged).pop("peft_config", None)  # or a saved folder would look like an adapter's
    if head is not None:
        _tie_equal(merged)
    if not torch.allclose(beside, _logits(merged), rtol=1e-3, atol=1e-3):
        raise UserError(
            f"{folder}: merged into its base model the adapter gives other logits than beside it: "
            "merge it with peft and save the whole model"
        )
    return merged.requires_grad_(True)


def held_by(model: torch.nn.Module) -> bool:
    """Whether the model holds an adapter that is not merged."""
    return bool(vars(model).get("peft_config"))


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes the adapter that the model holds, as peft does, and the tokenizer."""
    from peft import get_peft_model_state_dict

    ((name, config),) = vars(model)["peft_config"].items()
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
        tokenizer.save_pretrained(folder)
    # A copy each: tied weights stand in the state twice, which the file format does not hold.
    named = {f"base_model.model.{key}": value.clone().contiguous() for key, value in state.items()}
    save_file(named, folder / WEIGHTS, metadata={"format": "pt"})
    config.save_pretrained(str(folder))


def _adapted(model: PreTrainedModel, folder: Path) -> PeftModel:
    require("loop", f"the adapter in {folder}")
    from peft import PeftModel

    _weights(folder)
    if _config(folder).is_prompt_learning:
        raise UserError(
            f"{folder}: an adapter of virtual tokens changes the prompt and no layer: expected "
            "LoRA, or another adapter of the model's layers"
        )
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", message=".*missing adapter keys")
        with sources.expected("an adapter that fits its base model", folder):
            return PeftModel.from_pretrained(model, str(folder), is_trainable=True).eval()


def _weights(folder: Path) -> Path:
    if not (folder / WEIGHTS).is_file():
        raise UserError(
            f"{folder}: expected the adapter's weights as {WEIGHTS}, there are none: save it with "
            "peft's save_pretrained"
        )
    return folder / WEIGHTS


def _config(folder: Path) -> PeftConfig:
    from peft import PeftConfig

    place = folder / sources.ADAPTER
    with sources.expected("the configuration of an adapter that peft knows", place):
        return PeftConfig.from_pretrained(str(folder))


def _base(adapted: PeftModel) -> PreTrainedModel:
    base = adapted.get_base_model()
    assert isinstance(base, PreTrainedModel)
    return base


def _tied_head(model: PreTrainedModel, folder: Path) -> Any:
    """The head whose weight is the embedding's, where the adapter changes either; else None."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or getattr(head, "weight", None) is not embedding.weight:
        return None
    names = {n.rpartition(".")[2] for n, m in model.named_modules() if m in (head, embedding)}
    return head if names & _changed(folder) else None


def _tie_equal(merged: PreTrainedModel) -> None:
    """Ties embeddings that came out alike, as peft trains tokens of tied ones in both."""
    head: Any = merged.get_output_embeddings()
    embedding: Any = merged.get_input_embeddings()
    if torch.equal(head.weight, embedding.weight):
        head.weight = embedding.weight
        _say_tied(merged, tied=True)


def _say_tied(model: PreTrainedModel, *, tied: bool) -> None:
    model.config.tie_word_embeddings = tied
    model.config.get_text_config().tie_word_embeddings = tied


def _changed(folder: Path) -> set[str]:
    """Last names of the modules that the adapter's file holds something for."""
    from safetensors import safe_open

    weights = _weights(folder)
    with sources.expected("an adapter's weights", weights), safe_open(weights, "pt") as file:
        parts = [key.split(".") for key in file.keys()]  # noqa: SIM118  # no mapping
    return {part for path in parts for part in path}


@torch.inference_mode()
def _logits(model: PreTrainedModel) -> torch.Tensor:
    rows = int(model.config.get_text_config().vocab_size)
    ids = torch.arange(3, 3 + PROBE, device=model.device)[None] % rows
    return model(input_ids=ids, use_cache=False).logits.float()
