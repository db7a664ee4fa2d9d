"""A folder becomes a model and its tokenizer."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from influbench.data.records import ModelRef
from influbench.errors import UserError
from influbench.models import adapter, sources
from influbench.models.chat import set_pad, set_template
from influbench.models.device import device_of
from influbench.models.quiet import quiet
from influbench.models.resolving import resolve
from influbench.models.settings import Attention
from influbench.store.letting_go import refuse

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LIMITS = ("max_position_embeddings", "n_positions", "seq_length", "max_seq_len")
"""What families call the length of their context."""
UNLIMITED = 1 << 20
"""Tokens of a recurrent model, which states no limit."""
OTHER_HEADS = re.compile(
    r"For(Sequence|Token)Classification|ForQuestionAnswering|ForMultipleChoice"
)
"""Architectures whose head is no language model's: read as one, the head would be left out."""
FIRST = re.compile(r"\.\d+\.")
"""Where the number of its layer stands in the name of a weight."""


class LoadedModel(NamedTuple):
    """A model in eval mode and its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast


def load_tokenizer(ref: ModelRef, *, chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """The tokenizer of a model, ready for batches.

    Its padding token differs from its end-of-turn token, ``model_max_length`` is at most the
    model's context, decoders pad on the left; encoders keep the right: positions are absolute.

    Args:
        ref: the model.
        chat_template: ``chatml``, a jinja file, or the template itself; None = the model's own.

    Raises:
        UserError: no usable tokenizer or padding token.
    """
    folder = Path(ref.path)
    base = _base_folder(folder)
    config = _read_config(base or folder)
    holder = folder if base is None or (folder / "tokenizer.json").is_file() else base
    with quiet(), sources.expected("a model with its tokenizer", holder):
        tokenizer = AutoTokenizer.from_pretrained(holder, trust_remote_code=False)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UserError(
            f"{holder}: expected a tokenizer with a tokenizer.json, got {type(tokenizer).__name__}"
        )
    tokenizer.padding_side = "right" if _is_encoder(config) else "left"
    tokenizer.model_max_length = min(tokenizer.model_max_length, context_length(config))
    set_pad(tokenizer, int(config.get_text_config().vocab_size))
    if chat_template is not None:
        set_template(tokenizer, chat_template)
    return tokenizer


def load(
    ref: ModelRef,
    *,
    dtype: str = "float32",
    device: str = "auto",
    attention: Attention = "sdpa",
    chat_template: str | None = None,
    keep_adapter: bool = False,
) -> LoadedModel:
    """Loads a model in eval mode with its tokenizer; a peft adapter is merged in fp32.

    Args:
        ref: the model.
        dtype: ``float32`` or ``bfloat16``.
        device: ``auto``, or a torch device.
        attention: ``eager`` where forward-mode differentiation or ``vmap`` is needed; models that
            have no ``sdpa`` are always ``eager``.
        chat_template: see :func:`load_tokenizer`.
        keep_adapter: the adapter stays beside its base, and its weights alone are trainable.

    Raises:
        UserError: unknown dtype or device, or the folder lacks weights of the model.
    """
    if dtype not in DTYPES:
        raise UserError(f"expected dtype float32 or bfloat16, got '{dtype}'")
    target = device_of(device)
    tokenizer = load_tokenizer(ref, chat_template=chat_template)
    folder = Path(ref.path)
    refuse(folder)
    base = _base_folder(folder)
    if base is None:
        model = _read_model(folder, DTYPES[dtype], attention)
    else:
        # In bf16 most of an adapter's small updates would round away.
        model = _read_model(base, torch.float32, attention)
        model = (adapter.attach if keep_adapter else adapter.merge)(model, folder)
        for weight in model.parameters():  # not model.to(): that would round rotary buffers too
            weight.data = weight.data.to(DTYPES[dtype])
        model.config.dtype = DTYPES[dtype]
    # For generation alone: a padding token in the model's configuration is one whose row of the
    # embedding has no gradient, in texts as well, and that is for its folder to say.
    if model.can_generate():
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    torch.nn.Module.to(model, device=target)
    return LoadedModel(model.eval(), tokenizer)


def outline(ref: ModelRef, *, keep_adapter: bool = False) -> PreTrainedModel:
    """A causal language model without memory: names and shapes of its weights, no weights.

    Args:
        ref: the model.
        keep_adapter: with the adapter's weights beside it, which alone are trainable.
    """
    folder = Path(ref.path)
    base = _base_folder(folder)
    config = _read_config(base or folder)
    with quiet(), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            config, attn_implementation="eager", trust_remote_code=False
        )
        return adapter.outline(model, folder) if base and keep_adapter else model


def context_length(model_or_config: PreTrainedModel | PreTrainedConfig) -> int:
    """How many tokens the model takes at most.

    Raises:
        UserError: the architecture states no limit.
    """
    given = model_or_config
    config = (given.config if isinstance(given, PreTrainedModel) else given).get_text_config()
    for name in LIMITS:
        if isinstance(getattr(config, name, None), int):
            return int(getattr(config, name))
    if hasattr(config, "state_size"):  # recurrent: its state has one size however long the text
        return UNLIMITED
    raise UserError(
        f"model type '{config.model_type}' states no max_position_embeddings: "
        "expected a transformer with a fixed context"
    )


def _base_folder(folder: Path) -> Path | None:
    base = sources.adapter_base(folder)
    return Path(resolve(*base).path) if base else None


def _read_config(folder: Path) -> PreTrainedConfig:
    with quiet(), sources.expected("a config.json that transformers knows", folder):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    made = next(iter(config.architectures or []), config.model_type)
    if config.is_encoder_decoder or OTHER_HEADS.search(made):
        kind = "an encoder with a decoder" if config.is_encoder_decoder else "no language model"
        raise UserError(
            f"{folder}: expected a causal language model (or a text encoder), got {made}, which is "
            f"{kind}; name another model"
        )
    return config


def _is_encoder(config: PreTrainedConfig) -> bool:
    name = (config.architectures or [""])[0]
    return name.endswith("Model") and not name.endswith("LMHeadModel")


def _read_model(folder: Path, dtype: torch.dtype, attention: Attention) -> PreTrainedModel:
    config = _read_config(folder)
    kind = AutoModel if _is_encoder(config) else AutoModelForCausalLM
    read = functools.partial(
        kind.from_pretrained,
        folder,
        config=config,
        dtype=dtype,
        output_loading_info=True,
        trust_remote_code=False,
    )
    with quiet(), sources.expected("the weights of its config.json", folder):
        try:
            model, report = read(attn_implementation=attention)  # pyright: ignore[reportGeneralTypeIssues]  # a pair: output_loading_info
        except ValueError as error:
            if attention == "eager" or "scaled_dot_product_attention" not in str(error):
                raise
            # Gemma 2, GPT-J, BLOOM and others have no other attention.
            model, report = read(attn_implementation="eager")  # pyright: ignore[reportGeneralTypeIssues]  # as above
    # Transformers fills such weights with random numbers and only warns.
    absent = sorted(map(str, {*report["missing_keys"], *report["mismatched_keys"]}))
    if absent:
        raise UserError(
            f"{folder}: expected all weights of {type(model).__name__}, {len(absent)} are missing "
            f"or have another shape, first {absent[0]}"
        )
    own = model.state_dict().keys()
    left = [key for key in map(str, report["unexpected_keys"]) if FIRST.sub(".0.", key, 1) in own]
    if left:
        raise UserError(
            f"{folder}: its weights have further layers than its config.json (num_hidden_layers), "
            f"first {min(left)}, which would be left out: mend config.json"
        )
    return model
