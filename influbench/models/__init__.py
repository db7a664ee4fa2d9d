"""Models: a name becomes a folder with a digest, a folder becomes a model and its tokenizer."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from influbench.models.chat import chat_prompt, takes_system
    from influbench.models.device import device_in_words, device_of
    from influbench.models.embedded import embedded_status
    from influbench.models.loading import (
        DTYPES,
        LoadedModel,
        context_length,
        load,
        load_tokenizer,
        outline,
    )
    from influbench.models.quiet import save
    from influbench.models.resolving import EMBEDDED, resolve
    from influbench.models.settings import Attention, Learn, ModelConfig

_HOMES = {
    "DTYPES": "loading",
    "EMBEDDED": "resolving",
    "Attention": "settings",
    "Learn": "settings",
    "LoadedModel": "loading",
    "ModelConfig": "settings",
    "chat_prompt": "chat",
    "context_length": "loading",
    "device_in_words": "device",
    "device_of": "device",
    "embedded_status": "embedded",
    "load": "loading",
    "load_tokenizer": "loading",
    "outline": "loading",
    "resolve": "resolving",
    "save": "quiet",
    "takes_system": "chat",
}
"""Where each name is; loaded when it is first used, so that settings need no torch."""

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
    "resolve",
    "save",
    "takes_system",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
