"""Servers that answer something odd: the right answer, or one line and the right answer later."""

import copy
import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
from bending import bent, places

from influbench import models
from influbench.errors import UserError
from influbench.generation.engines import Server
from influbench.generation.engines.endpoint import Endpoint
from influbench.generation.settings import Sampling, ServerSettings
from influbench.judging import build
from influbench.judging.protocol import JudgeConfig, Request
from influbench.store.ledger import Meter, Phase

KEY = "sk-never-to-be-seen-0123456789"
HUGE = 10**400
ODD: list[Any] = [None, True, -1, 0, 1e308, HUGE, 1.5, "", "x", [], [None], {}, {"a": 1}]
ODD += ["\ud800", "\0", float("nan"), float("inf"), 1000, "missing"]
LISTED = [{"token": "m", "logprob": -0.1}, {"token": "M", "logprob": -2.3}]
CHAT: Any = {
    "choices": [
        {
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "m"},
            "logprobs": {"content": [{"token": "m", "logprob": -0.1, "top_logprobs": LISTED}]},
        }
    ],
    "usage": {"prompt_tokens": 5, "completion_tokens": 1},
}
WRITTEN: Any = {
    "choices": [
        {
            "text": "ab",
            "finish_reason": "stop",
            "token_ids": [5, 6],
            "logprobs": {"content": [{"id": 5}, {"id": 6}]},
        }
    ],
    "usage": {"prompt_tokens": 5, "completion_tokens": 2},
}
MODELS: Any = {"data": [{"id": "t", "owned_by": "vllm"}]}
RIGHT = {"chat": CHAT, "completions": WRITTEN, "models": MODELS}

Odd = tuple[int, dict[str, str], bytes]
"""Status, headers and body of an answer."""
BODIES = [b"", b"<html>gateway</html>", b"[" * 9999, b'{"a":' * 9999, b"\xff\xfe", b"null", b"\0"]
BODIES += [b'{"error": {"message": "busy", "code": 429}}', json.dumps(CHAT).encode()[:40]]
BODIES += [json.dumps(CHAT).encode("utf-16")]
WAITS = ["\xb2", "-5", "nan", "inf", "", "1,2", "soon", "Wed, 21 Oct 999999 07:28:00 GMT"]
STATUS = [101, 199, 204, 304, 402, 600, 999]
PLACES = ["/v1/elsewhere", "file:///etc/hostname", "\xff"]
HEADERS: list[Odd] = [(429, {"Retry-After": wait}, b"busy") for wait in WAITS]
HEADERS += [(code, {}, b"") for code in STATUS]
HEADERS += [(code, {"Location": place}, b"") for code in (301, 307) for place in PLACES]
HEADERS += [(500, {"Content-Length": "999"}, b"cut"), (200, {"Content-Length": "x"}, b"")]
HEADERS += [(200, {"Content-Encoding": "gzip"}, b"x"), (200, {"Transfer-Encoding": "chunked"}, b"")]


class Odds:
    """A server; what it answers to a path that has ``on`` in it is ``odd``, else right."""

    def __init__(self) -> None:
        self.odd: Odd | None = None
        self.on = ""
        self.drips = False
        self.tokenizer: Any = None
        self.seen: list[tuple[str, str | None]] = []
        """Paths, and keys that came with them."""
        self.released = threading.Event()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("content-length") or 0))
                owner.seen.append((self.path, self.headers.get("authorization")))
                right = next(tree for name, tree in RIGHT.items() if name in self.path)
                told = owner.odd if owner.on in self.path and owner.odd else None
                code, headers, data = told or (200, {}, json.dumps(right).encode())
                self.send_response(code)
                for name, value in headers.items():
                    self.send_header(name, value)
                if not {"Content-Length", "Transfer-Encoding"} & headers.keys():
                    self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                with suppress(OSError):
                    self.send(data)

            def send(self, data: bytes) -> None:
                for byte in data if owner.drips else ():
                    self.wfile.write(bytes([byte]))
                    if owner.released.wait(0.03):
                        return
                self.wfile.write(b"" if owner.drips else data)

            do_GET = do_POST = answer  # noqa: N815

            def log_message(self, format, *args):  # noqa: A002
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def judged(self, **more: Any) -> object:
        """What a judge says, and what it costs."""
        told = {"timeout_s": 30, "max_retries": 0, "prompt_price": 3.0, **more}
        judge = build(JudgeConfig(kind="openai", model="j", base_url=self.url, **told))
        asked = Request(id="a", messages=(("user", "a"),), choices=("m", "M"))
        return judge.ask([asked]), judge.usage

    def chatted(self, **more: Any) -> object:
        """What a teacher behind a chat endpoint writes, and what it costs."""
        return self._written(Endpoint(self._settings(**more), "m"))

    def completed(self, **more: Any) -> object:
        """What a completion server writes, and what it costs."""
        return self._written(Server(self._settings(**more), self.tokenizer))

    def _settings(self, **more: Any) -> ServerSettings:
        told: dict[str, Any] = {"server_timeout_s": 30, "server_retries": 0, **more}
        return ServerSettings(**{"server_url": self.url, "server_prompt_price": 3.0, **told})

    def _written(self, engine: Endpoint | Server) -> object:
        meter = Meter()
        with meter.phase("run") as phase:
            found = engine.complete(
                ["hi"], ids=["a"], seed=0, sampling=Sampling(max_new_tokens=4),
                batch_size=1, stop=(), phase=phase,
            )  # fmt: skip
        return found, [(row.api_prompt_tokens, row.money) for row in meter.rows()]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return models.load_tokenizer(models.resolve("tiny"))


@pytest.fixture
def odds(monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> Iterator[Odds]:
    monkeypatch.setenv("INFLUBENCH_JUDGE_KEY", KEY)
    monkeypatch.setenv("SERVER_KEY", KEY)
    found = Odds()
    found.tokenizer = tokenizer
    yield found
    found.released.set()
    found.server.shutdown()
    found.server.server_close()


def answer(tree: Any, path: tuple[Any, ...], odd: Any) -> bytes:
    return json.dumps(bent(tree, path, odd)).encode()


ASKERS = {
    "judge": ("judged", "chat"),
    "teacher": ("chatted", "chat"),
    "engine": ("completed", "completions"),
    "models": ("completed", "models"),
}


@pytest.mark.parametrize("asker", ASKERS)
def test_an_odd_answer_ends_in_one_line_or_in_numbers_of_its_own_and_spoils_no_later_one(
    odds, asker
):
    way, odds.on = ASKERS[asker]
    ask = getattr(odds, way)
    right = ask()
    draw = random.Random(asker)
    tree = RIGHT[odds.on]
    parts = [answer(tree, path, odd) for path in places(tree) for odd in ODD]
    told = [*HEADERS, *((200, {}, body) for body in BODIES)]
    told += [(200, {}, body) for body in draw.sample(parts, 25)]
    refused = 0
    for odds.odd in told:
        started = time.monotonic()
        try:
            ask()
        except UserError as error:
            refused += 1
            line = str(error)
            assert "\n" not in line, odds.odd
            assert len(line) < 700, odds.odd
            assert KEY not in line, odds.odd
        assert time.monotonic() - started < 60, odds.odd
    odds.odd = None
    assert ask() == right
    assert refused > len(HEADERS)


@pytest.mark.parametrize("asker", ["judge", "teacher", "engine"])
@pytest.mark.parametrize("count", [-1, HUGE, 10**30])
def test_no_money_is_made_of_counts_that_cannot_be(odds, asker, count):
    way, odds.on = ASKERS[asker]
    odds.odd = 200, {}, answer(RIGHT[odds.on], ("usage", "prompt_tokens"), count)
    with pytest.raises(UserError, match=r"expected a .*completion with choices"):
        getattr(odds, way)()


@pytest.mark.parametrize("asker", ["teacher", "engine"])
def test_a_paid_server_that_counts_nothing_is_refused_and_a_free_one_is_not(odds, asker):
    way, odds.on = ASKERS[asker]
    odds.odd = 200, {}, answer(RIGHT[odds.on], ("usage",), "missing")
    with pytest.raises(UserError, match="expected usage with prompt_tokens"):
        getattr(odds, way)()
    getattr(odds, way)(server_prompt_price=0)


@pytest.mark.parametrize("asker", ["judge", "teacher", "engine"])
@pytest.mark.parametrize("count", ["prompt_tokens", "completion_tokens"])
def test_half_a_count_is_enough_where_only_that_half_is_paid(odds, asker, count):
    way, odds.on = ASKERS[asker]
    server = "" if asker == "judge" else "server_"
    price = f"{server}{count.replace('tokens', 'price')}"
    free = {f"{server}prompt_price": 0, f"{server}completion_price": 0}
    odds.odd = 200, {}, answer(RIGHT[odds.on], ("usage", count), "missing")
    with pytest.raises(UserError, match=f"expected usage with {count}"):
        getattr(odds, way)(**{**free, price: 3.0})
    getattr(odds, way)(**free)


@pytest.mark.parametrize("ids", [[5, 10**6], [-1, 6]])
def test_tokens_that_are_not_the_teachers_are_not_trained_on(odds, ids):
    odds.on, odds.odd = "completions", (200, {}, answer(WRITTEN, ("choices", 0, "token_ids"), ids))
    with pytest.raises(UserError, match=r"expected token ids below \d+, the teacher's vocabulary"):
        odds.completed()


def test_tokens_of_which_one_is_missing_are_no_tokens(odds):
    tree = copy.deepcopy(WRITTEN)
    del tree["choices"][0]["token_ids"]
    odds.on = "completions"
    odds.odd = 200, {}, answer(tree, ("choices", 0, "logprobs", "content", 0, "id"), None)
    (found,), _ = odds.completed()
    assert (found.text, found.ids) == ("ab", ())


def test_log_probabilities_above_zero_are_none(odds):
    where = ("choices", 0, "logprobs", "content", 0, "top_logprobs", 0, "logprob")
    odds.on, odds.odd = "chat", (200, {}, answer(CHAT, where, 1000))
    (reply,), _ = odds.judged()
    assert (reply.text, reply.probabilities) == ("m", None)


@pytest.mark.parametrize("asker", ["teacher", "engine"])
def test_an_answer_that_drips_is_given_up_in_time(odds, asker):
    way, _ = ASKERS[asker]
    odds.drips = True
    started = time.monotonic()
    with pytest.raises(UserError, match=r"no whole answer in 0\.3 s"):
        getattr(odds, way)(server_timeout_s=0.3)
    assert time.monotonic() - started < 60


PAID = {"server_prompt_price": 3.0, "server_completion_price": 3.0}
USELESS = {
    # What was counted, whatever else is in an answer.
    "no choices": (lambda tree: answer(tree, ("choices",), []), 5),
    "a choice of another kind": (lambda tree: answer(tree, ("choices", 0), 7), 5),
    # Else the most that it may have cost: 2 + 16 bytes of a prompt, 4 tokens of an answer.
    "no count": (lambda tree: answer(tree, ("usage",), "missing"), 22),
    "half a count": (lambda tree: answer(tree, ("usage", "completion_tokens"), "missing"), 22),
    "half an answer": (lambda tree: json.dumps(tree).encode()[:-9], 22),
    "a page": (lambda _: b"<html>gateway</html>", 22),
}


@pytest.mark.parametrize("asker", ["teacher", "engine"])
@pytest.mark.parametrize("useless", USELESS)
def test_an_answer_that_is_of_no_use_is_paid_too(odds, asker, useless, monkeypatch):
    way, odds.on = ASKERS[asker]
    tree = {**RIGHT[odds.on], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
    make, tokens = USELESS[useless]
    odds.odd = 200, {}, make(tree)
    assert billed(odds, way, monkeypatch) == pytest.approx(tokens * 3e-6)


@pytest.mark.parametrize("asker", ["teacher", "engine"])
@pytest.mark.parametrize("refusal", [429, 500, 400])
def test_a_refusal_costs_nothing(odds, asker, refusal, monkeypatch):
    way, odds.on = ASKERS[asker]
    odds.odd = refusal, {"Retry-After": "0"}, b"no"
    assert billed(odds, way, monkeypatch) == 0


@pytest.mark.parametrize("asker", ["teacher", "engine"])
def test_an_answer_that_comes_too_late_may_be_billed(odds, asker, monkeypatch):
    odds.drips = True
    way, odds.on = ASKERS[asker]
    if asker == "engine":
        monkeypatch.setattr(Server, "listed", SimpleNamespace(id="m", owned_by=None))
    found = billed(odds, way, monkeypatch, server_timeout_s=0.3, server_retries=1)
    assert found == pytest.approx(2 * 22 * 3e-6)


def billed(odds: Odds, way: str, monkeypatch: pytest.MonkeyPatch, **more: Any) -> float:
    """What the ledger has of a call that fails; the cap has as much."""
    told: list[float] = []
    monkeypatch.setattr(Phase, "add_api", lambda _self, *spent: told.append(spent[-1]))
    with pytest.raises(UserError):
        getattr(odds, way)(**PAID, **more)
    return sum(told)


def test_a_teachers_key_goes_nowhere_else(odds):
    other = Odds()
    odds.on, odds.odd = "chat", (302, {"Location": f"{other.url}/models"}, b"moved")
    with pytest.raises(UserError, match="HTTP 302 moved"):
        odds.chatted(server_key_variable="SERVER_KEY")
    assert odds.seen == [("/v1/chat/completions", f"Bearer {KEY}")]
    assert not other.seen
    other.server.shutdown()


def test_a_server_that_says_how_long_to_wait_is_waited_for(odds):
    odds.on, odds.odd = "chat", (429, {"Retry-After": "0.7"}, b"busy")
    started = time.monotonic()
    with pytest.raises(UserError, match="HTTP 429 busy"):
        odds.chatted(server_retries=1)
    assert time.monotonic() - started >= 0.7


@pytest.mark.parametrize("asker", ["judge", "teacher"])
@pytest.mark.parametrize("end", ["\n", "\r\n", " "])
def test_a_key_read_from_a_file_is_sent_without_the_end_of_its_line(odds, asker, end, monkeypatch):
    way, _ = ASKERS[asker]
    name = "key_variable" if asker == "judge" else "server_key_variable"
    monkeypatch.setenv("OF_A_FILE", KEY + end)
    getattr(odds, way)(**{name: "OF_A_FILE"})
    assert odds.seen[-1][1] == f"Bearer {KEY}"
    monkeypatch.setenv("OF_A_FILE", f"{KEY[:9]}\n{KEY[9:]}")
    with pytest.raises(UserError, match=r"printable ASCII characters in \$OF_A_FILE") as caught:
        getattr(odds, way)(**{name: "OF_A_FILE"})
    assert KEY[:9] not in str(caught.value)


WRONG = ["127.0.0.1:8000/v1", "file:///etc/hostname", "http://[::1/v1", "http://h:99999/v1"]
WRONG += ["http://h:x/v1", "http:///v1", "http://a b/v1", "http://h/\n"]


@pytest.mark.parametrize("url", WRONG)
@pytest.mark.parametrize("asker", ["judge", "teacher", "engine"])
def test_an_address_that_is_none_is_one_line(odds, asker, url):
    way, _ = ASKERS[asker]
    name = "base_url" if asker == "judge" else "server_url"
    odds.url = url
    with pytest.raises(UserError, match=rf"expected .*{name} as http\(s\)://host"):
        getattr(odds, way)()


def test_a_password_in_an_address_is_not_shown(odds):
    odds.url = "http://me:secret@127.0.0.1:9/v1?token=secret"
    for ask in (odds.judged, odds.chatted):
        with pytest.raises(UserError) as caught:
            ask()
        assert "secret" not in str(caught.value)
