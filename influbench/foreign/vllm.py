"""vLLM's server on a model's folder, started in an environment of its own.

    python -m influbench.foreign install vllm

``VLLM_…`` variables of the environment reach it, such as ``VLLM_CPU_KVCACHE_SPACE=1`` (GiB of keys
and values on a CPU).
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from influbench import models
from influbench.errors import UserError
from influbench.foreign import environments
from influbench.foreign.served import Served, Wanted

OURS = ("--model", "--served-model-name", "--host", "--port", "--dtype", "--seed")
"""Arguments that are not a user's to give."""


def serve(
    folder: Path,
    *,
    dtype: str,
    device: str,
    arguments: Sequence[str],
    seconds: float,
    log: Path,
    asked_by: str,
    also_called: Sequence[str] = (),
) -> Served:
    """A server that is ready; close it.

    Args:
        folder: the model, with all of its weights.
        dtype: of the weights.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        arguments: more of its own.
        seconds: it may take to be ready.
        log: what it prints.
        asked_by: for messages.
        also_called: names that it answers to beside ``Served.model``.

    Raises:
        UserError: it is not installed, cannot serve the model, or was not ready in time.
    """
    if taken := [a for a in arguments if a.partition("=")[0] in OURS]:
        raise UserError(f"vllm_arguments: expected none of {', '.join(OURS)}, got {taken[0]!r}")
    python = environments.python(environments.toolkit("vllm"), asked_by)
    name = f"influbench-{uuid.uuid4().hex}"  # no other server's
    # Read in parts, a seeded prompt takes its generator back, which on a CPU ends vLLM 0.32.
    whole = ["--no-enable-chunked-prefill"] if models.device_of(device) == "cpu" else []

    def command(port: int) -> list[str]:
        return [
            *(str(python), "-I", "-m", "vllm.entrypoints.openai.api_server"),
            *("--model", str(folder), "--served-model-name", name, *also_called),
            *("--host", "127.0.0.1", "--port", str(port), "--dtype", dtype, "--seed", "0"),
            *whole,
            *arguments,
        ]

    return Served(
        Wanted(
            name="vLLM",
            model=name,
            command=command,
            log=log,
            environment=_environment(device),
            seconds=seconds,
        )
    )


def _environment(device: str) -> Mapping[str, str]:
    """Variables for it: nothing of ours leaks in, and it tells nobody that it runs."""
    kind, _, number = models.device_of(device).partition(":")
    seen = {"CUDA_VISIBLE_DEVICES": number} if kind == "cuda" and number else {}
    return {**environments.environment(), "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", **seen}
