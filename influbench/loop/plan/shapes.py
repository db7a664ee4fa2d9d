"""How large a model is, from its name or its folder's ``config.json``; no weights are read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from influbench.errors import UserError


@dataclass(frozen=True)
class Shape:
    """The numbers of a transformer that its cost depends on."""

    parameters: float
    layers: int
    width: int
    vocabulary: int
    cached: int
    """Keys and values of one token in one layer: 2 x key-value heads x their width."""


KNOWN = {
    "tiny": Shape(1e5, 2, 32, 261, 64),
    "smollm2-135m-instruct": Shape(134.5e6, 30, 576, 49152, 2 * 3 * 64),
    "smollm2-360m-instruct": Shape(361.8e6, 32, 960, 49152, 2 * 5 * 64),
    "gemma3-270m": Shape(268.1e6, 18, 640, 262144, 2 * 1 * 256),
    "TinyLlama/TinyLlama_v1.1": Shape(1.100e9, 22, 2048, 32000, 2 * 4 * 64),
    "meta-llama/Meta-Llama-3-8B": Shape(8.030e9, 32, 4096, 128256, 2 * 8 * 128),
    "meta-llama/Meta-Llama-3-8B-Instruct": Shape(8.030e9, 32, 4096, 128256, 2 * 8 * 128),
}
"""From each model's ``config.json`` and the size of its weights."""


def shape_of(name: str) -> Shape:
    """The shape of a model; ``:bits=N`` and a seed after the name change no size.

    Raises:
        UserError: it is neither known by name nor a folder with ``config.json``.
    """
    plain = name.partition(":")[0]
    if plain in KNOWN:
        return KNOWN[plain]
    config = Path(name).expanduser() / "config.json"
    if not config.is_file():
        raise UserError(
            f"plan: how large is the model '{name}'? expected one of {', '.join(KNOWN)}, or a "
            "folder with config.json: fetch the model's config.json into a folder and give that"
        )
    return _read(config)


def _read(where: Path) -> Shape:
    try:
        found = json.loads(where.read_bytes())
        found = found.get("text_config", found)
        width, layers = found["hidden_size"], found["num_hidden_layers"]
        inner, vocabulary = found["intermediate_size"], found["vocab_size"]
        heads = found["num_attention_heads"]
        groups = found.get("num_key_value_heads") or heads
        head = found.get("head_dim") or width // heads
        one = 2 * width * head * (heads + groups) + 3 * width * inner
        ends = (1 if found.get("tie_word_embeddings") else 2) * vocabulary * width
        return Shape(layers * one + ends, layers, width, vocabulary, 2 * groups * head)
    except KeyError as error:
        raise UserError(f"{where}: expected {error} of a decoder with gated layers") from error
    except (AttributeError, ArithmeticError, TypeError, ValueError) as error:
        raise UserError(f"{where}: expected a model's settings as JSON ({error})") from error
