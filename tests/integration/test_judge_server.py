"""The client against a server that misbehaves in every way that real ones do."""

import itertools
import json
import logging
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from influbench.errors import UserError
from influbench.judge_archive import Archive
from influbench.judge_protocol import Budget, JudgeConfig, Request
from influbench.judging import build

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
                try:
                    time.sleep(owner.delay)
                    owner.reply(self, body, prompt, fault)
                except (BrokenPipeError, ConnectionResetError):
                    pass
                finally:
                    with owner.lock:
                        owner.active -= 1

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


@pytest.fixture
def faulty(monkeypatch):
    monkeypatch.setenv("INFLUBENCH_JUDGE_KEY", KEY)
    server = Faulty()
    yield server
    server.close()


def config(server: Faulty, **more) -> JudgeConfig:
    given = {"timeout_s": 0.5, "max_retries": 2, "backoff_s": 0.02} | more
    return JudgeConfig(kind="openai", model="judge-1", base_url=server.url, **given)


def ask(*prompts: str, choices: tuple[str, ...] = ()) -> list[Request]:
    return [Request(id=p, messages=(("user", p),), choices=choices, max_tokens=4) for p in prompts]


@pytest.mark.parametrize("fault", PASSING)
def test_a_passing_fault_ends_in_the_right_answer(faulty, fault):
    faulty.faults = {"a": [fault], "b": [fault, fault]}
    judge = build(config(faulty))
    texts = [r.text for r in judge.ask(ask("a", "b", "c"))]
    assert texts == ["a: [[7]]", "b: [[7]]", "c: [[7]]"]
    assert faulty.tries == {"a": 2, "b": 3, "c": 1}
    assert (judge.usage.calls, judge.usage.prompt_tokens) == (3, 3)


@pytest.mark.parametrize("fault", PASSING)
def test_a_lasting_fault_ends_in_one_clear_line(faulty, fault, tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    archive = tmp_path / "a.jsonl"
    judge = build(config(faulty), archive)
    judge.ask(ask("before"))
    faulty.always = fault
    started = time.monotonic()
    with pytest.raises(UserError) as caught:
        judge.ask(ask("a", "b"))
    assert time.monotonic() - started < 4
    message = str(caught.value)
    assert "\n" not in message
    assert "failed 3 times" in message
    assert "judge-1" in message
    assert len(Archive(archive)) == 1
    said = capfd.readouterr()
    for text in (message, caplog.text, archive.read_text(), said.out, said.err, repr(caught.value)):
        assert KEY not in text


@pytest.mark.parametrize(
    ("fault", "advice"), [("401", "check the key in"), ("404", "model name"), ("400", "settings")]
)
def test_a_refusal_is_not_tried_again(faulty, fault, advice):
    faulty.always = fault
    with pytest.raises(UserError, match=advice) as caught:
        build(config(faulty)).ask(ask("a"))
    assert faulty.tries["a"] == 1
    assert f"HTTP {fault}" in str(caught.value)
    assert KEY not in str(caught.value)
    assert caught.value.__cause__ is None


def test_an_exhausted_quota_is_not_tried_again(faulty):
    faulty.always = "429-insufficient_quota"
    with pytest.raises(UserError, match="insufficient_quota"):
        build(config(faulty)).ask(ask("a"))
    assert faulty.tries["a"] == 1


def test_retry_after_is_honoured(faulty):
    faulty.faults = {"a": ["429-after"]}
    started = time.monotonic()
    build(config(faulty)).ask(ask("a"))
    assert time.monotonic() - started >= 0.3


def test_no_server_at_all():
    gone = JudgeConfig(
        kind="openai", model="j", base_url="http://127.0.0.1:9/v1", max_retries=1, backoff_s=0
    )
    with pytest.raises(UserError, match="connection failed"):
        build(gone).ask(ask("a"))


def test_a_storm_of_faults_loses_and_repeats_nothing(faulty, tmp_path):
    prompts = [f"prompt {n}" for n in range(39)]
    faults = itertools.cycle(PASSING)
    faulty.faults = {p: [next(faults)] for p in prompts}
    archive = tmp_path / "a.jsonl"
    judge = build(config(faulty, concurrency=6), archive)
    replies = judge.ask(ask(*prompts))
    assert [r.text for r in replies] == [f"{p}: [[7]]" for p in prompts]
    assert set(faulty.served.values()) == {1}
    assert judge.usage.prompt_tokens == sum(map(len, prompts))
    again = build(config(faulty), archive)
    assert again.ask(ask(*prompts)) == replies
    assert again.usage.calls == 0
    assert set(faulty.served.values()) == {1}


def test_what_is_in_flight_when_another_fails_is_kept(faulty, tmp_path):
    faulty.delay = 0.1
    faulty.faults = {"bad": ["401"]}
    archive = Archive(tmp_path / "a.jsonl")
    prompts = [f"p{n}" for n in range(20)]
    with pytest.raises(UserError, match="401"):
        build(config(faulty, concurrency=4), archive).ask(ask("p0", "p1", "bad", *prompts))
    assert len(archive) == sum(faulty.served.values()) >= 2
    assert sum(faulty.served.values()) < 10


def test_concurrency_is_limited(faulty):
    faulty.delay = 0.05
    build(config(faulty, concurrency=3)).ask(ask(*(f"p{n}" for n in range(12))))
    assert faulty.most_active == 3


def test_the_spending_cap_stops_cleanly_and_can_be_raised(faulty, tmp_path):
    priced = {"prompt_price": 1000.0, "completion_price": 1000.0, "max_tokens": 4}
    prompts = [f"prompt number {n:03}" for n in range(30)]
    archive = tmp_path / "a.jsonl"
    capped = build(config(faulty, **priced, max_dollars=0.2), archive)
    with pytest.raises(UserError, match=r"spending cap: \$0\.\d+ of \$0.2 spent"):
        capped.ask(ask(*prompts))
    # 17 + 1 tokens at a tenth of a cent each; 37 may be needed for the next.
    assert capped.usage.money == pytest.approx(0.018 * capped.usage.calls)
    assert 0.2 - 0.038 <= capped.usage.money <= 0.2
    free = build(config(faulty, **priced), archive)
    free.ask(ask(*prompts))
    assert free.usage.calls == 30 - capped.usage.calls
    assert set(faulty.served.values()) == {1}


def test_one_cap_for_several_judges_and_for_a_resumed_buyer(faulty, tmp_path):
    priced = {"prompt_price": 1000.0, "max_tokens": 4}
    archive = Archive(tmp_path / "a.jsonl")
    shared = Budget(0.06)
    build(config(faulty, **priced), archive, budget=shared).ask(ask("x" * 20))
    with pytest.raises(UserError, match="spending cap"):
        build(config(faulty, **priced), archive, budget=shared).ask(ask("y" * 30))
    build(config(faulty, **priced), archive, buyer="stage").ask(ask("z" * 30))
    resumed = build(config(faulty, **priced, max_dollars=0.06), archive, buyer="stage")
    with pytest.raises(UserError, match="spending cap"):
        resumed.ask(ask("v" * 20))


def test_log_probabilities_where_offered_and_text_where_not(faulty):
    choices = ("m", "M")
    reply = build(config(faulty)).ask(ask("a", choices=choices))[0]
    assert reply.probabilities == pytest.approx((0.9002, 0.0998), abs=1e-3)
    assert faulty.bodies[-1]["top_logprobs"] == 20
    faulty.logprobs = False
    assert build(config(faulty)).ask(ask("b", choices=choices))[0].probabilities is None
    with pytest.raises(UserError, match="logprobs=required"):
        build(config(faulty, logprobs="required")).ask(ask("c", choices=choices))
    never = build(config(faulty, logprobs="never"))
    never.ask(ask("d", choices=choices))
    assert "logprobs" not in faulty.bodies[-1]
    assert never.name == "judge-1:text"


def test_an_endpoint_that_refuses_log_probabilities_is_asked_without(faulty):
    faulty.faults = {"a": ["400-logprobs"]}
    judge = build(config(faulty))
    assert judge.ask(ask("a", choices=("m", "M")))[0].text == "a: [[7]]"
    judge.ask(ask("b", choices=("m", "M")))
    assert faulty.tries == {"a": 2, "b": 1}


def test_names_tell_what_changes_answers(faulty):
    assert build(config(faulty, label="v2")).name == "judge-1:v2"
    assert build(config(faulty, extra={"seed": 1})).name.startswith("judge-1:")
    build(config(faulty, extra={"seed": 1})).ask(ask("a"))
    assert faulty.bodies[-1]["seed"] == 1
