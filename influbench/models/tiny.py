"""The ``tiny`` model: a random two-layer Llama with a byte-level tokenizer, for tests and dry runs.

Every text round-trips through the tokenizer (256 bytes and three special tokens), nothing is
downloaded, and a forward pass takes milliseconds. It has learnt nothing: numbers made with it only
show that the plumbing works.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from influbench.errors import UserError
from influbench.files import digest
from influbench.models.quiet import save
from influbench.models.settings import CHATML

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

VERSION = 2
"""Raised when the same seed would give other weights or another tokenizer."""
CONTEXT = 8192
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def parse_seed(name: str) -> int:
    """The seed in ``tiny`` (0) or ``tiny:SEED``.

    Raises:
        UserError: the seed is not a non-negative integer.
    """
    _, colon, seed = name.partition(":")
    if colon and not (seed.isascii() and seed.isdigit()):
        raise UserError(f"expected tiny or tiny:SEED with an integer seed, got '{name}'")
    return int(seed or 0)


def identity(seed: int) -> str:
    """Digest of the model with that seed."""
    return digest(f"tiny v{VERSION} seed {seed}")


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level tokenizer: ids 0 to 2 are special, then one id for each byte."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=SPECIAL[0],
        bos_token=SPECIAL[1],
        eos_token=SPECIAL[2],
        padding_side="left",
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        chat_template=CHATML,
    )


def build_model(seed: int) -> LlamaForCausalLM:
    """Random Llama, weights N(0, 1/fan-in).

    Transformers' own 0.02 would leave every logit near zero and all losses at ln(vocabulary): with
    fan-in scaling tokens differ, and so do the losses and gradients of examples.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=256 + len(SPECIAL),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            if weight.ndim == 2:
                weight.normal_(0.0, 1 / math.sqrt(weight.shape[1]), generator=generator)
            else:
                assert name.endswith("norm.weight"), name
                weight.fill_(1.0)
    return model


def write(seed: int, folder: Path) -> None:
    """Saves the model and its tokenizer into ``folder``."""
    save(build_model(seed), build_tokenizer(), folder)
