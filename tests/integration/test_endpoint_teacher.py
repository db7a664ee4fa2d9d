"""A stronger teacher behind a chat endpoint writes the data; nothing but its replies comes back."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from influbench.data.records import Candidate
from influbench.errors import UserError
from influbench.executors import ExecutorConfig
from influbench.files import digest, read_jsonl
from influbench.loop import pipeline, publish
from influbench.loop.pipeline import Run
from influbench.loop.plan import lengths, price, tasks
from influbench.loop.reading import load_run
from influbench.store import Store
from influbench.store.ledger import Meter
from influbench.store.session import Session
from influbench.studies import grid
from influbench.studies.study_file import one_run
from tests.slow_device import SLOW

KEY = "sk-never-to-be-seen-0123456789"


class Strong(BaseHTTPRequestHandler):
    """Writes a new task, or answers one, as it is asked."""

    bodies: list[dict]
    keys: set[str | None]

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        type(self).bodies.append(body)
        type(self).keys.add(self.headers.get("Authorization"))
        turn = body["messages"][-1]["content"]
        word = digest(f"{body['seed']}:{turn}")
        asked = "Write the next task" in turn
        said = f"<instruction>Explain {word}.</instruction> Next" if asked else f"It is {word}."
        usage = {"prompt_tokens": len(turn) // 4, "completion_tokens": 8}
        choice = {"message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
        data = json.dumps({"choices": [choice], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format, *args):  # noqa: A002
        pass


@pytest.fixture(scope="module")
def strong() -> Iterator[tuple[type[Strong], str]]:
    kind = type("Told", (Strong,), {"bodies": [], "keys": set()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield kind, f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def settings(url: str, *more: str) -> list[str]:
    return [
        *("teacher.kind=endpoint", "teacher.name=large-1", f"generation.server_url={url}"),
        *("generation.prefill=false", "generation.accept_unclosed=false"),
        *("generation.instruction.repetition_penalty=1", "generation.server_prompt_price=3"),
        *("scoring.compare=[]", "sizes.candidates=8", "data.num_questions=1"),
        *("evaluation.suites=[losses]", *more),
    ]


@pytest.fixture(scope="module")
def ran(strong, tmp_path_factory) -> tuple[Run, Store, type[Strong]]:
    kind, url = strong
    store = Store(tmp_path_factory.mktemp("store"))
    arm = ["scoring.estimator=bootstrap:length", "generation.server_key_variable=STRONG_KEY"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STRONG_KEY", KEY)
        found = pipeline.run(load_run("tiny", settings(url, *arm)), Session(store))
    return found, store, kind


def test_a_model_behind_an_endpoint_writes_what_students_learn(ran):
    found, store, kind = ran
    candidates = found.rounds[0].candidates
    assert len(candidates) == 8
    for candidate in candidates:
        assert candidate.instruction.startswith("Explain ")
        assert candidate.raw_completion == f"<instruction>{candidate.instruction}</instruction>"
        assert candidate.response.startswith("It is ")
        assert candidate.finished
        assert not candidate.prompt_ids  # no tokens come back
    assert {body["model"] for body in kind.bodies} == {"large-1"}
    assert all(len(body["messages"]) == 1 and "stop" not in body for body in kind.bodies)
    (entry,) = store.root.glob("generate-training-bootstrap*")
    shown = {c.group.partition("#")[0] for c in read_jsonl(entry / "candidates.jsonl", Candidate)}
    assert shown <= {c.id for c in candidates}
    rows = publish.rows(found, "s", "r")
    losses = {r.estimator: r.value for r in rows if r.metric == "heldout_loss"}
    assert len(set(losses.values())) == 3


def test_what_it_wrote_is_in_the_ledger_and_its_key_nowhere(ran):
    found, store, kind = ran
    written = [row for row in found.ledger if row.stage == "generate"]
    assert sum(row.api_calls for row in written) == len(kind.bodies)
    tokens = sum(row.api_prompt_tokens for row in written)
    assert sum(row.money for row in written) == pytest.approx(3e-6 * tokens)
    assert kind.keys == {f"Bearer {KEY}"}
    for file in store.root.rglob("*"):
        assert not file.is_file() or KEY.encode() not in file.read_bytes(), file


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("scoring.estimator=length", "arm 'length' would teach it: take none, bootstrap"),
        ("scoring.estimator=flipped:length", "arm 'flipped:length' would teach it"),
        ("generation.prefill=true", "prefill begins its turn"),
        ("generation.engine=vllm", "engine = vllm needs its weights"),
        ("generation.response.repetition_penalty=1.2", "response.repetition_penalty is not known"),
        ("generation.server_url=null", "server_url says where it is"),
    ],
)
def test_what_an_endpoint_cannot_do_is_one_line(change, said):
    cfg = load_run("tiny", settings("http://x/v1", "scoring.estimator=none", change))
    with pytest.raises(UserError, match=f"only its replies come back; .*{said}"):
        pipeline.check(cfg)


def test_a_key_that_is_not_set_is_named(strong, tmp_path):
    _, url = strong
    told = ["scoring.estimator=none", "generation.server_key_variable=STRONG_KEY"]
    with pytest.raises(UserError, match=r"key in \$STRONG_KEY, which is not set"):
        pipeline.run(load_run("tiny", settings(url, *told)), Session(Store(tmp_path)))


def test_a_cap_is_never_exceeded_and_what_was_paid_for_is_kept(strong, tmp_path):
    kind, url = strong
    prices = ["generation.server_completion_price=9", "scoring.estimator=none"]
    told = settings(url, *prices, "generation.server_concurrency=4")

    def run(cap: float) -> Session:
        session = Session(Store(tmp_path))
        cfg = load_run("tiny", [*told, f"generation.server_max_dollars={cap}"])
        pipeline.run(cfg, session)
        return session

    before = len(kind.bodies)
    with pytest.raises(UserError, match=r"not asked further: \$0\.00\d\d of \$0.006 are spent"):
        run(0.006)
    first = len(kind.bodies) - before
    ledgers = [Meter(path).rows() for path in tmp_path.glob("generate*/ledger.jsonl")]
    paid = sum(row.money for rows in ledgers for row in rows)
    assert first > 4
    assert sum(row.api_calls for rows in ledgers for row in rows) == first
    assert 0 < paid <= 0.006
    with pytest.raises(UserError, match="are spent"):  # what was paid before counts
        run(0.006)
    assert len(kind.bodies) - before <= first + 1
    session = run(1.0)
    written = [row for row in session.ledger if row.stage == "generate"]
    assert sum(row.api_calls for row in written) == len(kind.bodies) - before
    assert session.budget.spent == pytest.approx(sum(row.money for row in written))


def test_a_cap_without_prices_is_refused():
    with pytest.raises(UserError, match=r"server_max_dollars=1\.0 needs server_prompt_price"):
        load_run("tiny", ["generation.server_max_dollars=1"])


@pytest.mark.parametrize("where", ["generation", "evaluation.turns"])
def test_a_sweep_on_other_processes_refuses_a_cap_that_one_must_count(where, tmp_path):
    told = [f"{where}.server_max_dollars=1", f"{where}.server_prompt_price=3"]
    cfg = load_run("tiny", [*settings("http://x/v1", "scoring.estimator=none"), *told])
    with pytest.raises(UserError, match=r"generation\.server_max_dollars cap what all runs cost"):
        grid.run_all(one_run(cfg), tmp_path, tmp_path, ExecutorConfig(kind="pool", workers=2))


def test_the_plan_names_its_money(strong):
    cfg = load_run("tiny", settings("http://x/v1", "scoring.estimator=none"))
    found = price(cfg, tasks(cfg, lengths.lengths(cfg.data, cfg.generation)), SLOW)
    written = [p for p in found if p.task.stage == "generate"]
    assert {p.placement for p in written} == {"endpoint"}
    (told,) = [p for p in written if p.task.label == "round1-candidates responses"]
    # Eight prompts of a template and an instruction, at 3 dollars a million tokens.
    assert told.money == pytest.approx(3e-6 * told.task.read)
    assert told.task.read > 8 * 30
    assert told.seconds == pytest.approx(8 * 4 / 16)
