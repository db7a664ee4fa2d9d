"""Examples as vectors: the student's hidden states, or a sentence encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn import functional

from influbench import models
from influbench.data.records import Example
from influbench.estimator import Array
from influbench.student.language_student import LanguageStudent

Encoder = Callable[[Sequence[Example]], Array]
"""Examples to vectors of length 1, shape [example, width], fp64."""

ENCODER_TOKENS = 256
"""What MiniLM was trained on; longer texts are cut."""
BATCH = 32


@torch.no_grad()
def hidden_states(student: LanguageStudent, examples: Sequence[Example]) -> Array:
    """Position-weighted mean of the last hidden states, shape [example, width], of length 1.

    Token t of T weighs t / Σ t: later tokens have seen more (RDS+, arXiv 2503.01807; SGPT,
    2202.08904).
    """
    out = np.empty((len(examples), student.model.config.get_text_config().hidden_size))
    for batch in student.batches(examples):
        hidden = student.hidden(batch.tokens).double()
        lengths = torch.tensor([len(r.ids) for r in batch.rows], device=batch.device)[:, None]
        position = torch.arange(1, hidden.shape[1] + 1, device=batch.device)[None]
        weight = (position * (position <= lengths)).double()
        mean = (hidden * (weight / weight.sum(1, keepdim=True))[:, :, None]).sum(1)
        out[list(batch.positions)] = functional.normalize(mean, dim=-1).cpu().numpy()
    return out


def sentence_encoder(name: str, device: str) -> Encoder:
    """A sentence encoder: mean of its last hidden states over tokens.

    Args:
        name: an embedded model, a folder or a hub repository of an encoder.
        device: where it runs.
    """
    model, tokenizer = models.load(models.resolve(name), device=device)

    @torch.no_grad()
    def encode(examples: Sequence[Example]) -> Array:
        texts = [e.text for e in examples]
        parts: list[Array] = []
        for start in range(0, len(texts), BATCH):
            tokens = tokenizer(
                texts[start : start + BATCH],
                padding=True,
                truncation=True,
                max_length=min(ENCODER_TOKENS, tokenizer.model_max_length),
                return_tensors="pt",
            ).to(model.device)
            hidden = model(**tokens).last_hidden_state.double()
            weight = tokens["attention_mask"].double()[:, :, None]
            mean = (hidden * weight).sum(1) / weight.sum(1)
            parts.append(functional.normalize(mean, dim=-1).cpu().numpy())
        return np.concatenate(parts)

    return encode
