"""A judge server that fails in every way that real ones do, as planned prompt by prompt."""

import json
import threading
import time
from collections import Counter
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "sk-never-to-be-seen-0123456789"
PASSING = [
    "429",
    "429-after",
    "500",
    "503",
    "hang",
    "drip",
    "truncated",
    "cut",
    "garbage",
    "schema",
]
PASSING += ["empty", "no-usage", "reset"]


class Faulty:
    """Answers chat completions; each prompt meets its planned faults first, then a right answer."""

    def __init__(self) -> None:
        self.faults: dict[str, list[str]] = {}
        self.always = ""
        self.logprobs = True
        self.delay = 0.0
        self.tries: Counter[str] = Counter()
        self.served: Counter[str] = Counter()
        self.bodies: list[dict] = []
        self.active = self.most_active = 0
        self.released = threading.Event()
        self.lock = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                prompt = body["messages"][-1]["content"]
                with owner.lock:
                    owner.bodies.append(body)
                    owner.active += 1
                    owner.most_active = max(owner.most_active, owner.active)
                    plan = owner.faults.get(prompt, [])
                    number = owner.tries[prompt]
                    owner.tries[prompt] += 1
                    fault = plan[number] if number < len(plan) else owner.always
                time.sleep(owner.delay)
                with owner.lock:  # before the reply: who has it may send the next request at once
                    owner.active -= 1
                with suppress(BrokenPipeError, ConnectionResetError):
                    owner.reply(self, body, prompt, fault)

            def log_message(self, format, *args):  # noqa: A002
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()

    def right(self, body: dict, prompt: str) -> bytes:
        listed = [{"token": "m", "logprob": -0.1}, {"token": "M", "logprob": -2.3}]
        position = {"token": "m", "logprob": -0.1, "top_logprobs": listed}
        offered = self.logprobs and body.get("logprobs")
        choice = {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "m" if offered else f"{prompt}: [[7]]"},
            "logprobs": {"content": [position]} if offered else None,
        }
        usage = {"prompt_tokens": len(prompt), "completion_tokens": 1}
        return json.dumps(
            {"object": "chat.completion", "choices": [choice], "usage": usage}
        ).encode()

    def reply(self, handler: BaseHTTPRequestHandler, body: dict, prompt: str, fault: str) -> None:
        whole = self.right(body, prompt)
        if fault in ("hang", "reset"):
            self.released.wait(20 if fault == "hang" else 0)
            handler.connection.close()
            return
        parts = json.loads(whole)
        bodies = {
            "truncated": whole[: len(whole) // 2],
            "garbage": b"\xff\xfe<html>gateway</html>",
            "schema": b'{"choices": [{"message": "not an object"}], "usage": {}}',
            "empty": json.dumps({**parts, "choices": []}).encode(),
            "half-counted": json.dumps({**parts, "usage": {"prompt_tokens": 2}}).encode(),
            "no-usage": json.dumps({"choices": parts["choices"]}).encode(),
        }
        status, data = 200, bodies.get(fault, whole)
        headers = {"Retry-After": "0.3"} if fault.endswith("after") else {}
        if fault[:3].isdigit():
            status = int(fault[:3])
            data = json.dumps({"error": {"message": f"no: {fault} for key {KEY}"}}).encode()
        handler.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            handler.send_header(name, value)
        # A body cut short of its announced length.
        handler.send_header("Content-Length", str(len(data) + (50 if fault == "cut" else 0)))
        handler.end_headers()
        if fault == "drip":
            for byte in data:
                if self.released.wait(0.05):
                    return
                handler.wfile.write(bytes([byte]))
                handler.wfile.flush()
        handler.wfile.write(data)
        if not fault:
            with self.lock:
                self.served[prompt] += 1
