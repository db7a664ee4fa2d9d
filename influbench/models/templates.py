"""A chat template for a model that has none, as a stage: what follows sees an ordinary model."""

from __future__ import annotations

import contextlib
import functools
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from influbench import models
from influbench.config import Config
from influbench.data.records import ModelRef
from influbench.files import digest
from influbench.models import ModelConfig, cache
from influbench.store import Entry, Stage, Work


class TemplateConfig(Config):
    """The template to write into the model's folder."""

    chat_template: str


def add_template(cfg: TemplateConfig, model: ModelRef, *, work: Work) -> None:
    """Leaves the folder ``model``: the same files, an optimizer's among them, and the template."""
    folder = work.folder("model")
    for path in sorted(Path(model.path).iterdir()):
        if path.is_file():
            shutil.copyfile(path, folder / path.name)
    models.load_tokenizer(model, chat_template=cfg.chat_template).save_pretrained(folder)


STAGE = Stage("template", 2, add_template)


def templated(cfg: ModelConfig, run: Callable[..., Entry]) -> ModelRef:
    """The model of a configuration, with the template that the configuration gives it.

    ``run`` runs a stage: ``Session.run``.
    """
    return add_to(models.resolve(cfg.name, cfg.revision), cfg, run)


def add_to(ref: ModelRef, cfg: ModelConfig, run: Callable[..., Entry]) -> ModelRef:
    """A model that was found already, with the configuration's template."""
    if cfg.chat_template is None:
        return ref
    told = TemplateConfig(chat_template=cfg.chat_template)
    return run(STAGE, told, ref).model("model")


def check_template(cfg: ModelConfig) -> None:
    """Refuses a model that could not be prompted.

    Raises:
        UserError: there is no such model, or it has no chat template and none is given.
    """
    _check(models.resolve(cfg.name, cfg.revision), cfg.chat_template)


@functools.cache  # the runs of a study share their models: each tokenizer is read once
def _check(ref: ModelRef, chat_template: str | None) -> None:
    """What was found good is kept in the user's cache: seconds of imports of the next command."""
    told = f"{ref.digest}:{chat_template}:transformers {version('transformers')}"
    good = cache.cache_dir() / "prompted" / digest(told)
    if good.is_file():
        return
    tokenizer = models.load_tokenizer(ref, chat_template=chat_template)
    models.chat_prompt(tokenizer, [("user", "?")])
    with contextlib.suppress(OSError):  # a cache that cannot be written only costs time
        good.parent.mkdir(parents=True, exist_ok=True)
        good.touch()
