"""vLLM, started on a model's folder in an environment of its own, and ended.

    python -m influbench.foreign install vllm

It is asked as any completion server is (see ``server``). ``VLLM_…`` variables of the environment
reach it, such as ``VLLM_CPU_KVCACHE_SPACE=1`` (GiB of keys and values on a CPU).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from influbench import models
from influbench.data.records import ModelRef
from influbench.errors import UserError
from influbench.foreign import environments
from influbench.foreign.served import Served, Wanted
from influbench.generation.engines.server import Server
from influbench.generation.settings import ServerSettings
from influbench.models import sources
from influbench.store import Work

LOG = "vllm.log"
OURS = ("--model", "--served-model-name", "--host", "--port", "--dtype", "--seed")


@contextmanager
def started(
    cfg: ServerSettings,
    teacher: ModelRef,
    *,
    arguments: Sequence[str],
    seconds: float,
    dtype: str,
    device: str,
    chat_template: str | None,
    work: Work,
) -> Iterator[Server]:
    """A vLLM with a model, ready; ended with the block.

    Args:
        cfg: how it is asked; where it is and what the model is called there is put in.
        teacher: the model; an adapter is merged into its base model first.
        arguments: more of its own.
        seconds: it may take to be ready.
        dtype: of its weights.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        chat_template: of the tokenizer that renders prompts here.
        work: whose stage it writes for; its log is in the entry's ``scratch`` until that is whole.

    Raises:
        UserError: it is not installed, cannot serve the model, or ended by itself.
    """
    if taken := [a for a in arguments if a.partition("=")[0] in OURS]:
        raise UserError(f"vllm_arguments: expected none of {', '.join(OURS)}, got {taken[0]!r}")
    python = environments.python(environments.toolkit("vllm"), "engine = vllm")
    scratch = work.path / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    name = f"influbench-{uuid.uuid4().hex}"  # no other server's
    with work.meter.phase("start"):
        folder = _whole(teacher, work)
        work.progress.note(f"{work.title}: starts vLLM on {folder}, log in {scratch / LOG}")

        def command(port: int) -> list[str]:
            return [
                *(str(python), "-I", "-m", "vllm.entrypoints.openai.api_server"),
                *("--model", str(folder), "--served-model-name", name),
                *("--host", "127.0.0.1", "--port", str(port), "--dtype", dtype, "--seed", "0"),
                *arguments,
            ]

        wanted = Wanted(
            name="vLLM",
            model=name,
            command=command,
            log=scratch / LOG,
            environment=_environment(device),
            seconds=seconds,
        )
        served = Served(wanted)
    with served:
        tokenizer = models.load_tokenizer(teacher, chat_template=chat_template)
        told = {"server_url": served.url, "server_model": name}
        yield Server(cfg.model_copy(update=told), tokenizer)


def _whole(teacher: ModelRef, work: Work) -> Path:
    """A folder with all weights of the model."""
    if sources.adapter_base(Path(teacher.path)) is None:
        return Path(teacher.path)
    merged = models.load(teacher, device="cpu")
    folder = work.folder("scratch/merged")
    models.save(*merged, folder)
    return folder


def _environment(device: str) -> Mapping[str, str]:
    """Variables for it: nothing of ours leaks in, and it tells nobody that it runs."""
    kind, _, number = models.device_of(device).partition(":")
    seen = {"CUDA_VISIBLE_DEVICES": number} if kind == "cuda" and number else {}
    return {**environments.environment(), "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", **seen}
