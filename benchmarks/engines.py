"""``python -m benchmarks.engines [--count 64] [--engines hf,llama,vllm]``: who writes how fast.

Each engine writes so many candidates with SmolLM2 as teacher, in a process that is killed (SIGKILL)
once its first chunk is kept, and again in another one, which goes on. Printed: tokens of the kept
pairs a second of writing (the ledger's phases; the killed process lost what it had begun), seconds
until the server was ready, whether what the killed process had kept is in the records, and whether
the records have the same fields.

hf is bfloat16 in batches of 32; llama is llama.cpp by ``xllamacpp`` with its
4-bit weights; vllm is vLLM in its own environment, bfloat16, left out where it is not installed.
Torch and llama.cpp have one thread, as has vLLM where ``VLLM_CPU_OMP_THREADS_BIND`` says so.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import psutil
import torch
import xllamacpp

from influbench import generation, models
from influbench.data.records import Candidate, LedgerRow, SeedPrompt
from influbench.foreign import environments
from influbench.generation.attempts import GenerationConfig
from influbench.generation.settings import Sampling
from influbench.models.embedded import PACKAGED
from influbench.store import Store

MODEL = "smollm2-135m-instruct"
SLOTS = 8
VLLM = ("--max-model-len=1024", "--max-num-seqs=32", "--enforce-eager")  # compiling takes minutes
WORDS = ("boats", "bread", "rain", "owls", "maps", "salt", "tides", "wool")
SEEDS = [SeedPrompt(id=w, instruction=f"Tell me something about {w}.") for w in WORDS]


@contextmanager
def llama() -> Generator[str]:
    """llama.cpp's server in this process; its address."""
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
    yield f"{server.listening_address}/v1"
    del server


def config(engine: str, count: int, url: str) -> GenerationConfig:
    """The stage's settings; the teacher is begun for, since a small one keeps no format."""
    sampling = Sampling(temperature=0.8, top_p=0.9, max_new_tokens=24)
    return GenerationConfig(
        engine={"hf": "hf", "llama": "server", "vllm": "vllm"}[engine],  # pyright: ignore[reportArgumentType]
        server_url=url or None,
        server_concurrency=SLOTS if engine == "llama" else 32,
        vllm_arguments=VLLM if engine == "vllm" else (),
        dtype="bfloat16",
        num_candidates=count,
        num_shots=3,
        num_own_shots=1,
        prompts_per_chunk=8,
        prefill=True,
        one_line=True,
        accept_unclosed=True,
        instruction=sampling,
        response=sampling,
    )


def write(engine: str, count: int, url: str, store: Path) -> None:
    """What the processes do."""
    torch.set_num_threads(1)
    cfg = config(engine, count, url)
    Store(store).run(generation.STAGE, cfg, SEEDS, models.resolve(MODEL), "bench", label=engine)


def measure(engine: str, count: int, url: str, store: Path) -> set[str]:
    """Writes twice, killed the first time; prints a line and returns the records' fields."""
    command = [sys.executable, "-m", "benchmarks.engines", "--count", str(count)]
    command += ["--process", engine, "--url", url, "--store", str(store)]
    first = subprocess.Popen(command, start_new_session=True)
    children: list[psutil.Process] = []
    while not (kept := list(store.glob("*/chunks/*/[0-9]*.jsonl"))):
        assert first.poll() is None, "it ended before a chunk was kept"
        children = psutil.Process(first.pid).children(recursive=True)
        time.sleep(0.02)
    before = {path: path.read_bytes() for path in kept}
    first.send_signal(signal.SIGKILL)
    first.wait()
    _, left = psutil.wait_procs(children, 30)
    assert not left, f"orphans: {left}"
    written = [
        row["raw_completion"]
        for data in before.values()
        for line in data.decode().splitlines()
        if not (row := json.loads(line)).get("dropped", "header")
    ]
    subprocess.run(command, check=True)
    cfg = config(engine, count, url)
    ref = models.resolve(MODEL)
    entry = Store(store).run(generation.STAGE, cfg, SEEDS, ref, "bench", label=engine)
    found = entry.records("candidates", Candidate)
    tokenizer = models.load_tokenizer(ref)
    texts = [text for c in found for text in (c.raw_completion, c.response)]
    tokens = sum(len(tokenizer.encode(text, add_special_tokens=False)) for text in texts)
    rows = {row.phase: row for row in entry.ledger()}
    seconds = rows["instructions"].seconds + rows["responses"].seconds
    kept_on = [c.raw_completion for c in found][: len(written)] == written
    line = (entry.path / "candidates.jsonl").read_text().splitlines()[0]
    print(
        f"{engine:6} {len(found)} pairs, {tokens} tokens in {seconds:.1f} s: "
        f"{tokens / seconds:.1f} a second; {entry.meta['attempts']} attempts; killed with "
        f"{len(written)} pairs kept, resumed with them: {kept_on}; {_start(rows)}; orphans: 0",
        flush=True,
    )
    return set(json.loads(line))


def _start(rows: dict[str, LedgerRow]) -> str:
    if "start" not in rows:
        return "nothing to start"
    row = rows["start"]
    return f"ready after {row.seconds / row.attempts:.1f} s, {row.attempts} times"


def main() -> None:
    """Measures all that is asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--engines", default="hf,llama,vllm")
    parser.add_argument("--process", default="", help="inner: write with this engine")
    parser.add_argument("--url", default="")
    parser.add_argument("--store", type=Path)
    told = parser.parse_args()
    if told.process:
        write(told.process, told.count, told.url, told.store)
        return
    fields: dict[str, set[str]] = {}
    for engine in told.engines.split(","):
        if engine == "vllm" and not environments.installed(environments.toolkit("vllm")):
            print(f"vllm   left out: {environments.toolkit('vllm').install_command}")
            continue
        serving = llama() if engine == "llama" else nullcontext("")
        with serving as url, tempfile.TemporaryDirectory() as folder:
            fields[engine] = measure(engine, told.count, url, Path(folder))
    same = len({frozenset(names) for names in fields.values()}) == 1
    print(f"fields of a record: {len(next(iter(fields.values())))}, the same for all: {same}")
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
