"""Models: a name becomes a folder with a digest, a folder becomes a model and its tokenizer."""

from __future__ import annotations

from influbench.models.chat import chat_prompt, takes_system
from influbench.models.conversation import Learn
from influbench.models.device import device_in_words, device_of
from influbench.models.embedded import embedded_status
from influbench.models.loading import (
    DTYPES,
    EMBEDDED,
    Attention,
    LoadedModel,
    ModelConfig,
    context_length,
    load,
    load_tokenizer,
    outline,
    resolve,
)
from influbench.models.quiet import quiet, save

__all__ = [
    "DTYPES",
    "EMBEDDED",
    "Attention",
    "Learn",
    "LoadedModel",
    "ModelConfig",
    "chat_prompt",
    "context_length",
    "device_in_words",
    "device_of",
    "embedded_status",
    "load",
    "load_tokenizer",
    "outline",
    "quiet",
    "resolve",
    "save",
    "takes_system",
]
