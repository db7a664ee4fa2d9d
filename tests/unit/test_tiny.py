import math
from pathlib import Path

import numpy as np
import pytest
import torch

from influbench import models
from influbench.data.records import ModelRef
from influbench.errors import UserError
from influbench.models import tiny

TEXTS = ["", "plain", "wörld 😀\t12345\n\n  x", "<|im_start|>user\nHi<|im_end|>", "\x00\x7f\u2028"]


@pytest.mark.parametrize("text", TEXTS)
def test_tiny_tokenizer_round_trips_every_text(tiny_ref: ModelRef, text: str) -> None:
    tokenizer = models.load_tokenizer(tiny_ref)
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_tiny_tokenizer_has_one_token_a_byte_and_one_a_special(tiny_ref: ModelRef) -> None:
    tokenizer = models.load_tokenizer(tiny_ref)
    assert len(tokenizer("ö12<|im_end|>").input_ids) == 2 + 2 + 1
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert len(tokenizer) == 259


def test_tiny_losses_are_not_degenerate(tiny_ref: ModelRef) -> None:
    model, tokenizer = models.load(tiny_ref)
    losses = []
    for text in ("The cat sat.", "x = [1, 2, 3]", "aaaaaaaaaaaa"):
        ids = tokenizer(text, return_tensors="pt").input_ids
        losses.append(model(ids, labels=ids).loss.item())
    assert all(abs(loss - math.log(259)) < 2 for loss in losses)
    assert np.std(losses) > 0.05  # transformers' own initialisation gives 0.01


def test_tiny_weights_depend_on_the_seed_alone(tmp_path: Path, tiny_ref: ModelRef) -> None:
    torch.manual_seed(7)  # the global state must not matter
    tiny.write(0, tmp_path / "a")
    torch.manual_seed(8)
    tiny.write(0, tmp_path / "b")
    first = (tmp_path / "a" / "model.safetensors").read_bytes()
    assert first == (tmp_path / "b" / "model.safetensors").read_bytes()
    assert first == (Path(tiny_ref.path) / "model.safetensors").read_bytes()
    other = models.resolve("tiny:3")
    assert other.digest != tiny_ref.digest
    assert first != (Path(other.path) / "model.safetensors").read_bytes()
    assert models.resolve("tiny:0").digest == tiny_ref.digest


@pytest.mark.parametrize("name", ["tiny:", "tiny:x", "tiny:-1", "tiny:1.5"])
def test_tiny_refuses_a_seed_that_is_no_number(name: str) -> None:
    with pytest.raises(UserError, match="integer seed"):
        models.resolve(name)
