"""Reads and writes model folders without noise: nothing on the screen, nothing of this machine."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@contextlib.contextmanager
def quiet() -> Generator[None]:
    """Silences transformers inside the block; the settings found are put back. Exceptions pass."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes a model and its tokenizer as a folder that ``models.load`` reads."""
    # How this process found the tokenizer (offline or not) would change the folder's digest.
    for leak in ("is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(leak, None)
    with quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
