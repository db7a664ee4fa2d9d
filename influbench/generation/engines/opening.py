"""An engine for a model, as the settings ask; whatever was started for it ends with the block."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from influbench import models
from influbench.data.records import ModelRef
from influbench.generation.engines import vllm
from influbench.generation.engines.engine import Engine, InProcess
from influbench.generation.engines.server import Server
from influbench.generation.settings import EngineSettings
from influbench.store import Work
from influbench.store.budget import Budget


@contextmanager
def opened(
    cfg: EngineSettings,
    model: ModelRef,
    *,
    dtype: str,
    device: str,
    chat_template: str | None = None,
    work: Work,
    budget: Budget | None = None,
) -> Generator[Engine]:
    """The engine that ``cfg`` names, for a model.

    Args:
        cfg: the settings.
        model: what writes; a server that is running has the weights where it is.
        dtype: of the weights.
        device: where they stand.
        chat_template: for a model without one.
        work: of the stage that asks.
        budget: what may be spent on a server that is running; None = without a cap.

    Raises:
        UserError: no such model, or no server.
    """
    if cfg.engine == "hf":
        with work.meter.phase("load"):
            loaded = models.load(model, dtype=dtype, device=device, chat_template=chat_template)
        yield InProcess.of(loaded)
    elif cfg.engine == "server":
        tokenizer = models.load_tokenizer(model, chat_template=chat_template)
        yield Server(cfg, tokenizer, budget=budget or Budget())
    else:
        with vllm.started(
            cfg,
            model,
            dtype=dtype,
            device=device,
            chat_template=chat_template,
            work=work,
        ) as server:
            yield server
