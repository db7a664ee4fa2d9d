"""A small server with a child process, which starts, breaks or stays deaf as it is told."""

import os
import sys
from pathlib import Path

from influbench.foreign.served import Wanted

SERVER = """
import http.server, json, os, signal, subprocess, sys
port, model, mode = int(sys.argv[1]), sys.argv[2], sys.argv[3]
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("pids", os.getpid(), child.pid, flush=True)
if mode == "broken":
    raise ValueError("no such architecture")
if mode == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/die":
            os._exit(3)
        data = json.dumps({"data": [{"id": model}]}).encode()
        self.send_response(503 if mode == "never" else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def wanted(folder: Path, mode: str = "well", seconds: float = 60.0, model: str = "ours") -> Wanted:
    script = folder / "server.py"
    script.write_text(SERVER)
    return Wanted(
        name="a server",
        model=model,
        command=lambda port: [sys.executable, "-S", str(script), str(port), model, mode],
        log=folder / "server.log",
        environment=os.environ,
        seconds=seconds,
    )
