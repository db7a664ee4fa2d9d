import json
import multiprocessing
import threading
from collections.abc import Collection, Sequence
from typing import Literal

import numpy as np
import pytest

from influbench import judging, servers
from influbench.errors import UserError
from influbench.judging import Archive, ArchivedJudge, build
from influbench.judging import endpoint as judge_endpoint
from influbench.judging.archive import judgement, request_key, total
from influbench.judging.local import choice_probabilities
from influbench.judging.protocol import JudgeConfig, Keep, Request
from influbench.store.budget import Budget


def ask(number: int, **more) -> Request:
    return Request(id=f"q{number}", messages=(("user", f"question {number}"),), **more)


class Shouting:
    """Answers in capitals, three tokens and a cent a reply; notes what it was asked."""

    name = "shouting"
    small = False
    note = ""
    grading: Literal["probability", "text"] = "text"
    models = ()

    def __init__(self, fail_after: int | None = None) -> None:
        self.asked: list[str] = []
        self.fail_after = fail_after

    def recall(self, known: Collection[str]) -> None:
        pass

    def answer(self, requests: Sequence[Request], keep: Keep) -> None:
        for request in requests:
            if self.fail_after is not None and len(self.asked) == self.fail_after:
                raise UserError("the judge is out of breath")
            self.asked.append(request.id)
            text = f" {request.messages[0][1].upper()}\n"
            keep([judgement(self.name, request, text=text, tokens=(2, 1), money=0.01)])


def test_replies_keep_the_order_and_equal_requests_are_asked_once():
    backend = Shouting()
    judge = ArchivedJudge(backend, Archive())
    same = Request(id="other", messages=ask(1).messages)
    replies = judge.ask([ask(2), ask(1), same])
    assert [r.text for r in replies] == ["QUESTION 2", "QUESTION 1", "QUESTION 1"]
    # Which of two equal requests is sent does not matter; that one is, does.
    assert len(backend.asked) == 2
    assert judge.usage == judging.Usage(calls=2, prompt_tokens=4, completion_tokens=2, money=0.02)
    assert judge.ask([ask(1)])[0].text == "QUESTION 1"
    assert judge.usage.calls == 2


def test_a_reply_that_was_cut_shorter_is_another_judgement(tmp_path):
    archive = Archive(tmp_path / "a.jsonl")
    for limit, bought in ((4, 1), (8, 2), (8, 2), (4, 2)):
        ArchivedJudge(Shouting(), archive, limit=limit).ask([ask(1, max_tokens=2048)])
        assert len(archive) == bought
    ArchivedJudge(Shouting(), archive, limit=64).ask([ask(1, max_tokens=8)])
    assert len(archive) == 2


def test_sampled_replies_belong_to_their_request():
    backend = Shouting()
    judge = ArchivedJudge(backend, Archive())
    warm = [Request(id=i, messages=(("user", "x"),), temperature=1.0) for i in "ab"]
    judge.ask(warm)
    assert backend.asked == ["a", "b"]
    assert request_key("j", ask(1)) != request_key("j", ask(1, max_tokens=1))
    assert request_key("j", ask(1)) != request_key("k", ask(1))
    assert request_key("j", ask(1)) == request_key("j", ask(1, answers=("not asked",)))


def test_what_was_bought_before_a_failure_is_kept_and_booked_to_the_buyer(tmp_path):
    path = tmp_path / "a.jsonl"
    with pytest.raises(UserError, match="out of breath"):
        ArchivedJudge(Shouting(fail_after=2), Archive(path), "stage-1").ask(
            [ask(i) for i in range(4)]
        )
    backend = Shouting()
    judge = ArchivedJudge(backend, Archive(path), "stage-1")
    assert judge.usage.calls == 2
    judge.ask([ask(i) for i in range(4)])
    assert backend.asked == ["q2", "q3"]
    usage = judge.usage
    assert (usage.calls, usage.prompt_tokens, usage.completion_tokens) == (4, 8, 4)
    assert usage.money == pytest.approx(0.04)
    assert ArchivedJudge(Shouting(), Archive(path), "stage-2").usage.calls == 0
    assert judge.usage.since(judging.Usage(calls=1, prompt_tokens=2)).prompt_tokens == 6


@pytest.mark.parametrize("cut", [1, 20, 200])
def test_a_torn_last_line_is_ignored_and_does_not_spoil_the_next(tmp_path, cut):
    path = tmp_path / "a.jsonl"
    judge = ArchivedJudge(Shouting(), Archive(path))
    judge.ask([ask(0), ask(1)])
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    torn = Archive(path)
    assert len(torn) == 1
    backend = Shouting()
    ArchivedJudge(backend, torn).ask([ask(0), ask(1), ask(2)])
    assert backend.asked == ["q1", "q2"]
    again = Archive(path)
    assert len(again) == 3
    # A cut that took only the line break left a whole record, which the next append completes.
    assert again.damaged == (0 if cut == 1 else 1)


def _append(path: str, start: int) -> None:
    from pathlib import Path

    archive = Archive(Path(path))
    for number in range(start, start + 25):
        archive.add([judgement("j", ask(number), text="x" * 3000)])


def test_threads_and_processes_append_whole_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    context = multiprocessing.get_context("fork")
    workers: list = [context.Process(target=_append, args=(str(path), 0))]
    workers += [threading.Thread(target=_append, args=(str(path), 100 * n)) for n in (1, 2, 3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    lines = path.read_text().splitlines()
    assert len(lines) == 100
    assert len({json.loads(line)["key"] for line in lines}) == 100
    assert Archive(path).damaged == 0


def test_what_another_process_bought_is_seen(tmp_path):
    path = tmp_path / "a.jsonl"
    backend = Shouting()
    judge = ArchivedJudge(backend, Archive(path))
    ArchivedJudge(Shouting(), Archive(path)).ask([ask(1)])
    judge.ask([ask(1)])
    assert backend.asked == []


def test_a_judgement_names_prompt_answer_judge_parameters_and_raw_reply(tmp_path):
    path = tmp_path / "a.jsonl"
    ArchivedJudge(Shouting(), Archive(path), "me").ask(
        [ask(1, answers=("an answer",), max_tokens=9)]
    )
    row = json.loads(path.read_text())
    assert row["text"] == " QUESTION 1\n"
    assert (row["judge"], row["max_tokens"], row["temperature"]) == ("shouting", 9, 0.0)
    assert (row["prompt_tokens"], row["completion_tokens"], row["buyer"]) == (2, 1, "me")
    assert len(row["prompt_hash"]) == len(row["answer_hash"]) == 32
    assert "an answer" not in path.read_text()


def test_recorded_judgements_replay_and_nothing_else(tmp_path):
    path = tmp_path / "a.jsonl"
    ArchivedJudge(Shouting(), Archive(path)).ask([ask(1)])
    recorded = build(JudgeConfig(kind="recorded", model="shouting"), path)
    assert recorded.ask([ask(1)])[0].text == "QUESTION 1"
    assert recorded.usage.money == 0
    with pytest.raises(UserError, match=r"1 of the judgements asked for \(first: q7\) are not in"):
        recorded.ask([ask(1), ask(7)])
    assert recorded.grading == "text"
    assert build(JudgeConfig(kind="recorded", model="local:x:1:float32")).grading == "probability"


def test_a_budget_never_lets_more_be_asked_than_it_holds():
    budget = Budget(1.0)
    assert budget.reserve("a", 0.6)
    assert not budget.reserve("b", 0.6)
    assert budget.waiting
    budget.settle("a", 0.3)
    assert budget.reserve("b", 0.6)
    budget.settle("b", 0.0)
    assert not budget.waiting
    assert budget.spent == pytest.approx(0.3)
    assert Budget(None).reserve("a", 1e9)


def test_settings_refuse_a_cap_without_prices_and_leave_transport_out_of_the_identity():
    with pytest.raises(ValueError, match="needs prompt_price"):
        JudgeConfig(max_dollars=1.0)
    cfg = JudgeConfig(prompt_price=2.0, completion_price=8.0)
    assert cfg.price(1_000_000, 500_000) == pytest.approx(6.0)
    other = cfg.model_copy(update={"base_url": "http://x/v1", "concurrency": 1, "prompt_price": 0})
    assert other.digest() == cfg.digest()
    assert cfg.model_copy(update={"max_tokens": 1}).digest() != cfg.digest()


def test_choices_by_first_token():
    top = {"m": np.log(0.5), " m": np.log(0.1), "M": np.log(0.2), "The": np.log(0.2)}
    assert judge_endpoint.top_probabilities(("m", "M"), top) == pytest.approx((0.75, 0.25))
    assert judge_endpoint.top_probabilities(("m", "M"), {"m": -1.0, "x": -0.1}) == (1.0, 0.0)
    assert judge_endpoint.top_probabilities(("m", "M"), {"Model": -0.1}) is None


def test_a_first_token_that_may_begin_two_choices_decides_nothing():
    grades = ("1", "2", "10")
    assert judge_endpoint.top_probabilities(grades, {"1": -0.1, "2": -3.0}) is None
    sure = judge_endpoint.top_probabilities(grades, {"1": 0.0, "10": 0.0, "2": -50.0})
    assert sure == pytest.approx((0.5, 0.0, 0.5))
    assert judge_endpoint.top_probabilities(grades, {"2": -0.1}) == (0.0, 1.0, 0.0)


def test_choices_by_whole_spelling():
    # Tokens 1 and 0: the choices are "1" and "10"; P(1) = 0.4, then P(0 | 1) = 0.25.
    first, second = np.zeros(4), np.zeros(4)
    first[1], first[2], second[0] = 0.4, 0.1, 0.25
    found = choice_probabilities([(1,), (1, 0), (2,)], {(): first, (1,): second})
    assert found == pytest.approx(np.array([0.3, 0.1, 0.1]) / 0.5)


def test_addresses_come_from_settings_then_environment(monkeypatch):
    for name in ("INFLUBENCH_JUDGE_URL", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    assert judge_endpoint.address(JudgeConfig()) == judge_endpoint.OPENAI_URL
    monkeypatch.setenv("OPENAI_BASE_URL", "http://a/v1")
    assert judge_endpoint.address(JudgeConfig()) == "http://a/v1"
    monkeypatch.setenv("INFLUBENCH_JUDGE_URL", "http://b/v1")
    assert judge_endpoint.address(JudgeConfig()) == "http://b/v1"
    assert judge_endpoint.address(JudgeConfig(base_url="http://c/v1")) == "http://c/v1"
    with pytest.raises(UserError, match="base_url"):
        judge_endpoint.address(JudgeConfig(base_url="localhost:8000"))
    assert servers.public("https://me:pw@host:1/v1?k=secret") == "https://host:1/v1"


def test_openai_keys_go_to_nobody_else(monkeypatch):
    monkeypatch.delenv("INFLUBENCH_JUDGE_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    assert judge_endpoint.key(JudgeConfig(), judge_endpoint.OPENAI_URL) == "sk-openai"
    assert judge_endpoint.key(JudgeConfig(), "http://elsewhere/v1") == ""
    named = JudgeConfig(key_variable="OPENAI_API_KEY")
    assert judge_endpoint.key(named, "http://elsewhere/v1") == "sk-openai"
    monkeypatch.setenv("INFLUBENCH_JUDGE_KEY", "mine")
    assert judge_endpoint.key(JudgeConfig(), "http://elsewhere/v1") == "mine"
    with pytest.raises(UserError, match=r"\$NOT_SET"):
        judge_endpoint.key(JudgeConfig(key_variable="NOT_SET"), "http://elsewhere/v1")
    monkeypatch.delenv("INFLUBENCH_JUDGE_KEY")
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError, match="needs a key"):
        judge_endpoint.key(JudgeConfig(), judge_endpoint.OPENAI_URL)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), ("0.5", 0.5), ("", None), ("soon", None), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0)],
)
def test_retry_after(header, seconds):
    assert servers.retry_after({"retry-after": header}) == seconds


def test_total_of_nothing():
    assert total([]) == judging.Usage()
