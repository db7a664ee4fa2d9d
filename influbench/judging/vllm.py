"""A local model as judge behind a vLLM that is started on it: asked and marked as an endpoint is.

Its log-probabilities are those of the first token that it writes, as any endpoint's, and not the
teacher-forced ones of a judge in this process: the two are judges of different names.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path

from influbench import models, servers
from influbench.errors import UserError
from influbench.foreign import vllm
from influbench.foreign.served import Served
from influbench.judging.openai_client import OpenAIBackend
from influbench.judging.protocol import JudgeConfig, Keep, Request
from influbench.models import sources
from influbench.store.budget import Budget

NOWHERE = "http://127.0.0.1/v1"
"""Its address until it is started."""


class VllmBackend(OpenAIBackend):
    """Started when the first reply is missing, ended with this object."""

    def __init__(self, cfg: JudgeConfig, budget: Budget) -> None:
        ref = models.resolve(cfg.model, cfg.revision)
        self._folder = Path(ref.path)
        if sources.adapter_base(self._folder) is not None:
            raise UserError(
                f"judge '{cfg.model}' of kind vllm is an adapter: expected a whole model; merge it "
                "into its base model, or take kind local"
            )
        short = cfg.model.rstrip("/").split("/")[-1]
        told = {"model": f"vllm:{short}:{ref.digest[:8]}:{cfg.dtype}", "base_url": NOWHERE}
        super().__init__(cfg.model_copy(update=told), budget)
        self._served: Served | None = None

    def answer(self, requests: Sequence[Request], keep: Keep) -> None:
        """Starts it where it is not there yet, and asks all."""
        if self._served is None:
            self._served = self._started()
            self._url = self._served.url
            self._where = servers.public(self._url)
        super().answer(requests, keep)

    def _started(self) -> Served:
        cfg, arguments = self._cfg, list(self._cfg.vllm_arguments)
        folder = Path(tempfile.mkdtemp(prefix="influbench-judge-"))
        if cfg.chat_template is not None:
            tokenizer = models.load_tokenizer(
                models.resolve(str(self._folder)), chat_template=cfg.chat_template
            )
            template = folder / "template.jinja"
            template.write_text(str(tokenizer.chat_template), encoding="utf-8")
            arguments += ["--chat-template", str(template)]
        served = vllm.serve(
            self._folder,
            dtype=cfg.dtype,
            device=cfg.device,
            arguments=arguments,
            seconds=cfg.vllm_start_s,
            log=folder / "vllm.log",
            asked_by="judge.kind = vllm",
            also_called=[cfg.model],
        )
        weakref.finalize(self, _ended, served, folder)
        return served


def _ended(served: Served, folder: Path) -> None:
    served.close()
    shutil.rmtree(folder, ignore_errors=True)
