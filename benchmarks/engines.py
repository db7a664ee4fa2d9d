"""``python -m benchmarks.engines [COUNT]``: engines at the same prompts, tokens a second of each.

Hugging Face in this process and a real server (llama.cpp by ``xllamacpp``, its own 4-bit weights of
the same model, one thread each), one after the other in one run.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path

import torch
import xllamacpp

from influbench import models
from influbench.generation.choosing import Sampling
from influbench.generation.engines import Engine, InProcess, Server
from influbench.generation.settings import ServerSettings
from influbench.models import chat_prompt
from influbench.models.embedded import PACKAGED
from influbench.store import Meter

MODEL = "smollm2-135m-instruct"
SLOTS = 8


def serve() -> tuple[object, str]:
    """A server, to be kept, and its address."""
    packaged = PACKAGED[MODEL]
    found = importlib.util.find_spec(packaged.modules[0])
    assert found is not None
    assert found.submodule_search_locations
    params = xllamacpp.CommonParams()  # pyright: ignore[reportAttributeAccessIssue]
    params.model.path = str(Path(found.submodule_search_locations[0]) / packaged.file)
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_ctx = 512 * SLOTS
    params.n_parallel = SLOTS
    params.verbosity = 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)  # pyright: ignore[reportAttributeAccessIssue]
    return server, f"{server.listening_address}/v1"


def measure(name: str, engine: Engine, count: int) -> None:
    """Prints how fast an engine writes ``count`` short answers."""
    words = ("boats", "bread", "rain", "owls", "maps", "salt", "tides", "wool")
    prompts = [
        chat_prompt(engine.tokenizer, [("user", f"Fact {n} about {words[n % 8]}, in a sentence.")])
        for n in range(count)
    ]
    meter = Meter()
    began = time.perf_counter()
    with meter.phase("write") as phase:
        found = engine.complete(
            prompts,
            ids=[str(n) for n in range(count)],
            seed=0,
            sampling=Sampling(temperature=0.6, top_p=0.9, max_new_tokens=24),
            batch_size=32,
            stop=(),
            phase=phase,
        )
    seconds = time.perf_counter() - began
    tokens = sum(c.tokens for c in found)
    kept = sum(bool(c.ids) for c in found)
    print(
        f"{name:24} {count} rows, {tokens} tokens in {seconds:.1f} s: {tokens / seconds:.1f} a "
        f"second; {kept} rows with their sampled ids, {sum(c.finished for c in found)} finished"
    )


def main() -> None:
    """Measures both."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 64
    torch.set_num_threads(1)
    ref = models.resolve(MODEL)
    for dtype in ("float32", "bfloat16"):
        loaded = models.load(ref, dtype=dtype, device="cpu")
        measure(f"hf, {dtype}", InProcess(loaded), count)
        del loaded
    server, url = serve()
    cfg = ServerSettings(server_url=url, server_concurrency=SLOTS)
    measure("server (llama.cpp, Q4_1)", Server(cfg, models.load_tokenizer(ref)), count)
    del server


if __name__ == "__main__":
    main()
