"""Teachers that write on a completion server: a real one (llama.cpp), killed, busy and gone."""

import importlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import children
import pytest

from influbench import generation, models
from influbench.data.records import Answer, Candidate, ModelRef, Question, SeedPrompt
from influbench.errors import UserError
from influbench.evaluation import answers
from influbench.evaluation.answers import AnswerConfig
from influbench.evaluation.settings import AnswerSampling
from influbench.generation.attempts import GenerationConfig
from influbench.generation.choosing import Sampling
from influbench.generation.engines import Server
from influbench.generation.settings import ServerSettings
from influbench.loop import sets
from influbench.loop.reading import load_run
from influbench.store import Meter, Store

pytest.importorskip("xllamacpp")
llama_server = importlib.import_module("llama_server")
MODEL = "smollm2-135m-instruct"
SEEDS = [
    SeedPrompt(id=f"s{i}", instruction=f"Tell me about {w}.")
    for i, w in enumerate(("boats", "bread", "rain", "owls"))
]
CHILD = """
import os, sys
from pathlib import Path
from influbench import generation
from influbench.data.records import ModelRef
from influbench.generation.engines import server
from tests.integration.test_engine_llama import SEEDS, config
from influbench.store import Store

ask, calls = server.Server.complete, []

def dying(self, *args, **kwargs):
    calls.append(1)
    if len(calls) == 3:  # the second chunk's instructions
        os._exit(9)
    return ask(self, *args, **kwargs)

server.Server.complete = dying
teacher = ModelRef(path=sys.argv[3], digest=sys.argv[4])
Store(Path(sys.argv[1])).run(generation.STAGE, config(sys.argv[2]), SEEDS, teacher, "t")
"""


def config(url: str, **more) -> GenerationConfig:
    sampling = {"temperature": 1.0, "top_p": 0.9, "max_new_tokens": 10}
    return GenerationConfig(
        engine="server",
        server_url=url,
        server_concurrency=2,
        num_candidates=3,
        num_shots=2,
        num_own_shots=1,
        prompts_per_chunk=1,
        instructions_per_seed=2,
        prefill=True,
        one_line=True,
        accept_unclosed=True,
        instruction=Sampling(**sampling),
        response=Sampling(**sampling),
        **more,
    )


@pytest.fixture(scope="module")
def llama() -> Iterator[str]:
    server = llama_server.serve(0)
    yield f"{server.listening_address}/v1"
    del server


def written(root: Path, url: str, teacher: ModelRef) -> list[Candidate]:
    entry = Store(root).run(generation.STAGE, config(url), SEEDS, teacher, "t")
    rows = {row.phase: row for row in entry.ledger()}
    assert rows["instructions"].api_completion_tokens > 0
    assert rows["responses"].api_calls >= 3
    return entry.records("candidates", Candidate)


def test_killed_and_resumed_the_records_are_those_of_a_server_and_of_nobody_else(
    llama, smollm2_ref, tmp_path
):
    child = children.python(
        CHILD, str(tmp_path), llama, smollm2_ref.path, smollm2_ref.digest,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert child.wait() == 9, child.said()[-500:]
    found = written(tmp_path, llama, smollm2_ref)
    assert len(found) == 3
    tokenizer = models.load_tokenizer(smollm2_ref)
    for candidate in found:
        assert tokenizer.decode(list(candidate.prompt_ids)) == candidate.teacher_prompt
        said = str(tokenizer.decode(list(candidate.completion_ids), skip_special_tokens=True))
        assert said.startswith(candidate.raw_completion)
        assert candidate.instruction in candidate.raw_completion
        assert candidate.response


class Scripted(BaseHTTPRequestHandler):
    """Answers with what the test put in line; the last one again and again."""

    replies: list[tuple[int, object]]
    bodies: list[dict]
    owner = "somebody"

    def do_GET(self):
        self._send(200, {"data": [{"id": "m", "owned_by": type(self).owner}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        type(self).bodies.append(body)
        replies = type(self).replies
        self._send(*(replies.pop(0) if len(replies) > 1 else replies[0]))

    def _send(self, code: int, told: object) -> None:
        data = json.dumps(told).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format, *args):  # noqa: A002
        pass


@pytest.fixture
def scripted() -> Iterator[tuple[type[Scripted], str]]:
    kind = type("Told", (Scripted,), {"replies": [], "bodies": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield kind, f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def asked(url: str, stop: tuple[str, ...] = (), names: tuple[str, ...] = ("a",), **more):
    cfg = ServerSettings(server_url=url, server_retries=2, **more)
    engine = Server(cfg, models.load_tokenizer(models.resolve("tiny")))
    with Meter().phase("run") as phase:
        return engine.complete(
            ["hello"] * len(names),
            ids=names,
            seed=1,
            sampling=Sampling(temperature=1.0, max_new_tokens=8),
            batch_size=1,
            stop=stop,
            phase=phase,
        )


def said(text: str, reason: str = "stop", **more) -> tuple[int, object]:
    return 200, {"choices": [{"text": text, "finish_reason": reason, **more}]}


def test_a_busy_server_is_asked_again_and_every_row_has_its_own_seed(scripted):
    kind, url = scripted
    kind.replies = [(503, {"error": "loading"}), said("hi there", "length")]
    found = asked(url, names=("a", "b", "c"), server_concurrency=1)
    assert [c.text for c in found] == ["hi there"] * 3
    assert not any(c.finished or c.ids for c in found)
    seeds = [body["seed"] for body in kind.bodies]
    assert seeds[0] == seeds[1]
    assert len(set(seeds)) == 3
    assert all(isinstance(token, int) for token in kind.bodies[0]["prompt"])


def test_text_and_tokens_end_with_the_stop_string(scripted):
    kind, url = scripted
    tokenizer = models.load_tokenizer(models.resolve("tiny"))
    ids = tokenizer.encode("ab</x>cd", add_special_tokens=False)
    kind.replies = [said("ab</x>cd", "length", token_ids=ids)]
    (found,) = asked(url, stop=("</x>",))
    assert (found.text, found.finished) == ("ab</x>", True)
    assert tokenizer.decode(list(found.ids)) == "ab</x>"
    assert "stop" not in kind.bodies[0]
    kind.owner = "vllm"
    asked(url, stop=("</x>",))
    assert kind.bodies[-1]["stop"] == ["</x>"]
    assert kind.bodies[-1]["include_stop_str_in_output"]


def test_an_end_of_turn_is_among_the_tokens(scripted):
    kind, url = scripted
    tokenizer = models.load_tokenizer(models.resolve("tiny"))
    ids = tokenizer.encode("ab", add_special_tokens=False)
    kind.replies = [said("ab", "stop", token_ids=ids)]
    (found,) = asked(url)
    assert found.ids == (*ids, tokenizer.eos_token_id)
    assert (found.tokens, found.finished) == (len(ids), True)


@pytest.mark.parametrize(
    ("reply", "told"),
    [((400, {"error": "no such model"}), "HTTP 400"), ((200, {"choices": []}), "got '{.*'")],
)
def test_a_server_that_refuses_is_quoted_once(scripted, reply, told):
    kind, url = scripted
    kind.replies = [reply]
    with pytest.raises(UserError, match=told):
        asked(url)
    assert len(kind.bodies) == 1


def test_no_server_is_one_line():
    with pytest.raises(UserError, match="start the server, run again"):
        asked("http://127.0.0.1:9/v1")
    with pytest.raises(UserError, match="expected server_url"):
        asked("")


@pytest.mark.parametrize("part", ["answers", "turns"])
def test_a_running_server_cannot_be_every_student_of_a_run(part):
    cfg = load_run("tiny", [f"evaluation.{part}.engine=server"])
    with pytest.raises(UserError, match=f"evaluation.{part}.engine = server"):
        sets.check(cfg)


def test_students_answer_on_a_server_with_the_records_of_this_process(llama, smollm2_ref, tmp_path):
    questions = [Question(id=f"q{i}", category="c", turns=("Name a sea.", "Why?")) for i in "ab"]
    sampling = AnswerSampling(temperature=0, max_new_tokens=6)
    told = {"sampling": sampling, "dtype": "float32", "device": "cpu"}
    served = AnswerConfig(engine="server", server_url=llama, server_concurrency=2, **told)
    found = []
    for cfg in (served, AnswerConfig(**told)):
        entry = Store(tmp_path).run(answers.STAGE, cfg, questions, smollm2_ref)
        found.append(entry.records("answers", Answer))
        assert entry.meta["empty_answers"] == 0
        (row,) = (row for row in entry.ledger() if row.phase == "answers")
        assert (row.api_calls, row.forward_passes > 0) == (
            (4, False) if cfg is served else (0, True)
        )
    for one, other in zip(*found, strict=True):
        assert (one.id, one.turns, len(one.responses)) == (other.id, other.turns, 2)


def test_answers_of_a_paid_server_stop_at_the_cap(scripted, tmp_path):
    kind, url = scripted
    usage = {"prompt_tokens": 10, "completion_tokens": 4}
    kind.replies = [(200, {"choices": [{"text": "x", "finish_reason": "stop"}], "usage": usage})]
    cfg = AnswerConfig(
        engine="server",
        server_url=url,
        server_concurrency=1,
        server_completion_price=1000.0,  # 4 tokens: 0.004 dollars, and 0.006 at most
        server_max_dollars=0.015,
        sampling=AnswerSampling(temperature=0, max_new_tokens=6),
    )
    questions = [Question(id=f"q{i}", category="c", turns=("Name a sea.",)) for i in range(8)]
    with pytest.raises(UserError, match=r"\$0\.0120 of \$0\.015 are spent"):
        Store(tmp_path).run(answers.STAGE, cfg, questions, models.resolve("tiny"))
    assert len(kind.bodies) == 3


def test_a_running_server_cannot_be_taught():
    cfg = load_run("tiny", ["generation.engine=server", "generation.server_url=http://x/v1"])
    with pytest.raises(UserError, match="has one teacher"):
        sets.check(cfg)
