"""vLLM, started on what writes and ended with the block; asked as any completion server is."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from influbench import models
from influbench.data.records import ModelRef
from influbench.foreign import vllm
from influbench.generation.engines.server import Server
from influbench.generation.settings import EngineSettings
from influbench.models import sources
from influbench.store import Work

LOG = "vllm.log"


@contextmanager
def started(
    cfg: EngineSettings,
    model: ModelRef,
    *,
    dtype: str,
    device: str,
    chat_template: str | None,
    work: Work,
) -> Generator[Server]:
    """A vLLM with a model, ready; ended with the block.

    Args:
        cfg: how it is started and asked.
        model: what writes; an adapter is merged into its base model first.
        dtype: of its weights.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        chat_template: of the tokenizer that renders prompts here.
        work: whose stage it writes for; its log is in the entry's ``scratch`` until that is whole.

    Raises:
        UserError: it is not installed, cannot serve the model, or ended by itself.
    """
    scratch = work.path / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    with work.meter.phase("start"):
        folder = _whole(model, work)
        work.progress.note(f"{work.title}: starts vLLM on {folder}, log in {scratch / LOG}")
        served = vllm.serve(
            folder,
            dtype=dtype,
            device=device,
            arguments=cfg.vllm_arguments,
            seconds=cfg.vllm_start_s,
            log=scratch / LOG,
            asked_by="engine = vllm",
        )
    with served:
        tokenizer = models.load_tokenizer(model, chat_template=chat_template)
        told = {"server_url": served.url, "server_model": served.model}
        yield Server(cfg.model_copy(update=told), tokenizer)


def _whole(model: ModelRef, work: Work) -> Path:
    """A folder with all weights of the model."""
    if sources.adapter_base(Path(model.path)) is None:
        return Path(model.path)
    merged = models.load(model, device="cpu")
    folder = work.folder("scratch/merged")
    models.save(*merged, folder)
    return folder
