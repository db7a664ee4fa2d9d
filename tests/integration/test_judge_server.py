"""The client against a server that misbehaves in every way that real ones do."""

import itertools
import logging
import time

import pytest
from faulty_server import KEY, PASSING, Faulty

from influbench.errors import UserError
from influbench.judging import build
from influbench.judging.archive import Archive
from influbench.judging.protocol import JudgeConfig, Request
from influbench.store.budget import Budget


@pytest.fixture
def faulty(monkeypatch):
    monkeypatch.setenv("INFLUBENCH_JUDGE_KEY", KEY)
    server = Faulty()
    yield server
    server.close()


def config(server: Faulty, **more) -> JudgeConfig:
    silent = {"hang", "drip"} & {server.always, *itertools.chain(*server.faults.values())}
    # A busy machine may answer later than half a second: only where no answer comes, not to wait.
    given = {"timeout_s": 0.5 if silent else 30, "max_retries": 2, "backoff_s": 0.02} | more
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
    faulty.faults, faulty.always = {"before": [""]}, fault
    judge = build(config(faulty), archive)
    judge.ask(ask("before"))
    started = time.monotonic()
    with pytest.raises(UserError) as caught:
        judge.ask(ask("a", "b"))
    assert time.monotonic() - started < 30
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
    judge = build(config(faulty, concurrency=6, timeout_s=2), archive)
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


def test_a_reply_that_is_no_judgement_is_paid_too(faulty):
    faulty.faults = {"a": ["empty", "schema", "empty", ""]}
    budget = Budget()
    priced = config(faulty, prompt_price=1000.0, completion_price=1000.0, max_retries=3)
    judge = build(priced, budget=budget)
    judge.ask(ask("a"))
    # Two tokens at a tenth of a cent for each of three replies; "schema" counts nothing, and may be
    # billed up to 17 bytes and 4 tokens.
    assert judge.usage.money == pytest.approx(0.006 + 0.021)
    assert budget.spent == pytest.approx(0.006 + 0.021)


@pytest.mark.parametrize(
    ("fault", "each"),
    [
        *((fault, 0.021) for fault in ("hang", "cut", "reset", "garbage", "no-usage")),
        *((fault, 0.0) for fault in ("429", "500")),
        ("empty", 0.002),
    ],
)
def test_what_may_be_billed_is_spent_though_no_judgement_comes_of_it(faulty, tmp_path, fault, each):
    faulty.always = fault
    priced = config(faulty, prompt_price=1000.0, completion_price=1000.0, max_retries=1)
    archive, budget = tmp_path / "a.jsonl", Budget()
    with pytest.raises(UserError, match="failed 2 times"):
        build(priced, archive, buyer="me", budget=budget).ask(ask("a"))
    assert budget.spent == pytest.approx(2 * each)
    faulty.always = ""  # the next attempt at the stage, of a command of its own
    judge, budget = build(priced, archive, buyer="me", budget=Budget(1.0)), Budget(1.0)
    assert judge.usage.money == pytest.approx(2 * each)
    assert judge.ask(ask("a"))[0].text == "a: [[7]]"
    assert judge.usage.money == pytest.approx(2 * each + 0.002)


def test_a_reply_that_stops_everything_is_paid_too(faulty):
    faulty.logprobs = False
    priced = config(faulty, prompt_price=1000.0, completion_price=1000.0, logprobs="required")
    budget = Budget()
    with pytest.raises(UserError, match="gives no log-probabilities"):
        build(priced, budget=budget).ask(ask("a", choices=("m", "M")))
    assert budget.spent == pytest.approx(0.002)


def test_a_server_that_is_not_there_costs_nothing():
    gone = JudgeConfig(
        kind="openai", model="j", base_url="http://127.0.0.1:9/v1", max_retries=1, backoff_s=0,
        prompt_price=1000.0,
    )  # fmt: skip
    budget = Budget()
    with pytest.raises(UserError, match="connection failed"):
        build(gone, budget=budget).ask(ask("a"))
    assert budget.spent == 0


def test_replies_that_are_no_judgements_meet_the_cap(faulty):
    faulty.always = "empty"
    priced = {"prompt_price": 1000.0, "completion_price": 1000.0, "max_retries": 50}
    budget = Budget(0.03)
    with pytest.raises(UserError, match="spending cap"):
        build(config(faulty, **priced), budget=budget).ask(ask("a"))
    # The next may cost 17 bytes and 4 tokens: 0.021.
    assert budget.spent == pytest.approx(0.002 * faulty.tries["a"])
    assert 0.03 - 0.021 < budget.spent <= 0.03


def test_what_has_a_price_and_is_not_counted_is_not_asked_again(faulty):
    faulty.always = "half-counted"
    with pytest.raises(UserError, match="usage with completion_tokens, which have a price"):
        build(config(faulty, completion_price=1.0)).ask(ask("a"))
    assert faulty.tries["a"] == 1
    assert build(config(faulty, prompt_price=1.0)).ask(ask("b"))[0].text == "b: [[7]]"


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
