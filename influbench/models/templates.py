"""A chat template for a model that has none, as a stage: what follows sees an ordinary model."""

from __future__ import annotations

from collections.abc import Callable

from influbench.config import Config
from influbench.models import loading as models
from influbench.models.loading import ModelConfig
from influbench.records import ModelRef
from influbench.store import Entry, Stage, Work


class TemplateConfig(Config):
    """The template to write into the model's folder."""

    chat_template: str
    dtype: str = "float32"


def add_template(cfg: TemplateConfig, model: ModelRef, *, work: Work) -> None:
    """Leaves the folder ``model``: the same weights, a tokenizer that has the template."""
    loaded = models.load(model, dtype=cfg.dtype, device="cpu", chat_template=cfg.chat_template)
    models.save(loaded.model, loaded.tokenizer, work.folder("model"))


STAGE = Stage("template", 1, add_template)


def templated(cfg: ModelConfig, run: Callable[..., Entry]) -> ModelRef:
    """The model of a configuration, with the template that the configuration gives it.

    ``run`` runs a stage: ``Session.run``.
    """
    ref = models.resolve(cfg.name, cfg.revision)
    if cfg.chat_template is None:
        return ref
    told = TemplateConfig(chat_template=cfg.chat_template, dtype=cfg.dtype)
    return run(STAGE, told, ref).model("model")


def check_template(cfg: ModelConfig) -> None:
    """Refuses a model that could not be prompted.

    Raises:
        UserError: there is no such model, or it has no chat template and none is given.
    """
    ref = models.resolve(cfg.name, cfg.revision)
    tokenizer = models.load_tokenizer(ref, chat_template=cfg.chat_template)
    models.chat_prompt(tokenizer, [("user", "?")])
