"""Endpoints of every kind that real ones are: limits, refusals, parts, thoughts, filters."""

import json
import math
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from command import influbench

from influbench.errors import UserError
from influbench.judging import Archive, ArchivedJudge, build
from influbench.judging.protocol import JudgeConfig, Request

Answer = Callable[[dict[str, Any]], tuple[int, Any]]
NAMES = ("m", "M")


class Endpoint:
    """Answers by a function of the request's body; keeps the bodies."""

    def __init__(self) -> None:
        self.answer: Answer = lambda body: (200, said("m"))
        self.bodies: list[dict[str, Any]] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                owner.bodies.append(body)
                code, reply = owner.answer(body)
                data = json.dumps(reply).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format, *args) -> None:  # noqa: A002
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def judge(self, archive: Archive | None = None, **more: Any) -> ArchivedJudge:
        url = f"http://127.0.0.1:{self.server.server_port}/v1"
        given = {"backoff_s": 0.01, "max_retries": 2, **more}
        return build(JudgeConfig(kind="openai", model="j", base_url=url, **given), archive)


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setenv("INFLUBENCH_JUDGE_KEY", "k")
    found = Endpoint()
    yield found
    found.server.shutdown()
    found.server.server_close()


def said(content: Any, logprobs: Any = None, finish: str = "stop", **message: Any) -> Any:
    message = {"role": "assistant", "content": content, **message}
    choice = {"index": 0, "finish_reason": finish, "message": message, "logprobs": logprobs}
    return {"choices": [choice], "usage": {"prompt_tokens": 5, "completion_tokens": 1}}


def listed(**chances: Any) -> Any:
    top = [{"token": t, "logprob": v} for t, v in chances.items()]
    return {"content": [{"token": "m", "logprob": -0.1, "top_logprobs": top}]}


def refused(status: int, message: str, **more: Any) -> tuple[int, Any]:
    return status, {"error": {"message": message, **more}}


def asks(*prompts: str, choices: tuple[str, ...] = NAMES) -> list[Request]:
    return [Request(id=p, messages=(("user", p),), choices=choices, max_tokens=4) for p in prompts]


SIXTY = listed(m=math.log(0.6), M=math.log(0.4))


@pytest.mark.parametrize(
    ("message", "taken"),
    [
        ("1 validation error for request: top_logprobs must be between 0 and 5", 5),
        ("top_logprobs: Input should be less than or equal to 8", 8),
        ("Requested sample logprobs of 20 (top_logprobs), greater than max allowed: 3", 3),
        ("top_logprobs is too large", 5),
    ],
)
def test_a_lower_limit_on_alternatives_is_asked_again_with_it(endpoint, message, taken):
    def answer(body):
        if body.get("top_logprobs", 0) > taken:
            return refused(400, message)
        return 200, said("m", SIXTY)

    endpoint.answer = answer
    archive = Archive()
    judge = endpoint.judge(archive)
    assert [r.probabilities for r in judge.ask(asks("a", "b"))] == [pytest.approx((0.6, 0.4))] * 2
    assert judge.name == f"j:top{taken}"
    assert f"of {taken} tokens only" in judge.note
    # Bought once: another command finds it under the same name without asking.
    asked = len(endpoint.bodies)
    again = endpoint.judge(archive)
    assert again.ask(asks("a"))[0].probabilities == pytest.approx((0.6, 0.4))
    assert (again.name, len(endpoint.bodies)) == (judge.name, asked)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (400, "Logprobs is not enabled for models/gemini-flash-latest"),
        (403, "You are not allowed to request logprobs from this model"),
        (404, "No endpoints found that support the requested parameters: top_logprobs"),
        (422, "Unknown parameter: 'top_logprobs'"),
        (400, "log probabilities are disabled"),
        (501, "logits_all=False"),
        (400, "Invalid request body"),  # says nothing; it works without
    ],
)
def test_refusals_of_log_probabilities_give_written_verdicts_by_another_name(
    endpoint, code, message
):
    endpoint.answer = lambda body: (
        refused(code, message) if "logprobs" in body else (200, said("M"))
    )
    archive = Archive()
    judge = endpoint.judge(archive)
    replies = judge.ask(asks("a", "b", "c"))
    assert [(r.text, r.probabilities) for r in replies] == [("M", None)] * 3
    assert judge.name == "j:text"
    assert "written verdicts count" in judge.note
    assert len(endpoint.bodies) == 4  # one refusal, and each request once
    again = endpoint.judge(archive)
    again.ask(asks("a", "b", "c"))
    assert (again.name, len(endpoint.bodies)) == ("j:text", 4)
    with pytest.raises(UserError, match="refused request"):
        endpoint.judge(logprobs="required").ask(asks("d"))


@pytest.mark.parametrize(
    "logprobs",
    [
        None,
        {"content": [{"token": "m", "logprob": -0.1, "top_logprobs": None}]},
        {"content": []},
        listed(m=None),
        {"tokens": ["m"], "token_logprobs": [-0.1], "top_logprobs": [{"m": -0.1}]},
        "none",
    ],
)
def test_replies_without_log_probabilities_are_paid_once(endpoint, logprobs):
    endpoint.answer = lambda body: (200, said("m", logprobs))
    judge = endpoint.judge()
    assert [r.probabilities for r in judge.ask(asks("a", "b"))] == [None, None]
    assert (judge.name, len(endpoint.bodies)) == ("j:text", 2)


def test_a_listed_token_without_a_number_is_left_out(endpoint):
    endpoint.answer = lambda body: (200, said("m", listed(m=-0.1, M=None)))
    assert endpoint.judge().ask(asks("a"))[0].probabilities == (1.0, 0.0)


def test_a_first_token_that_begins_a_thought_is_no_verdict(endpoint):
    chances = {"<think>": -0.0001, "m": -18.0, "M": -19.0}
    thought = "<think>m is longer</think>M"
    endpoint.answer = lambda body: (200, said(thought, listed(**chances)))
    judge = endpoint.judge()
    reply = judge.ask(asks("a"))[0]
    assert (reply.probabilities, judge.name) == (None, "j:text")  # not 73 % for m


def test_white_space_before_the_verdict_hides_no_log_probabilities(endpoint):
    blank = {"token": "\n", "logprob": -0.01, "top_logprobs": [{"token": "\n", "logprob": -0.01}]}
    endpoint.answer = lambda body: (200, said("\nm", {"content": [blank, *SIXTY["content"]]}))
    assert endpoint.judge().ask(asks("a"))[0].probabilities == pytest.approx((0.6, 0.4))


def test_verdicts_that_had_to_be_read_from_the_text_are_counted(endpoint):
    def answer(body):
        bold = body["messages"][-1]["content"] == "b"
        stars = {"content": [{"token": "**", "top_logprobs": [{"token": "**", "logprob": 0.0}]}]}
        return 200, said("**M**", stars) if bold else said("m", SIXTY)

    endpoint.answer = answer
    judge = endpoint.judge(concurrency=1)
    judge.ask(asks("a", "b", "c"))
    assert "1 of 3 replies did not begin with a choice" in judge.note


def test_two_ways_of_judging_are_not_mixed(endpoint):
    def answer(body):
        return 200, said("m", None if body["messages"][-1]["content"] == "b" else SIXTY)

    endpoint.answer = answer
    with pytest.raises(UserError, match="two ways of judging are not mixed"):
        endpoint.judge(concurrency=1).ask(asks("a", "b", "c"))


def test_an_endpoint_that_changes_its_model_is_told(endpoint, tmp_path):
    """An alias moves on to a newer snapshot: its verdicts are not all of one judge."""
    names = iter(["j-may", "j-may", "j-june"])
    endpoint.answer = lambda body: (200, {**said("m"), "model": next(names)})
    judge = endpoint.judge(Archive(tmp_path / "a.jsonl"), logprobs="never", concurrency=1)
    judge.ask(asks("a", "b"))
    assert "models" not in judge.note
    judge.ask(asks("c"))
    assert "the endpoint answered as 2 models: j-may (2), j-june (1)" in judge.note
    again = endpoint.judge(Archive(tmp_path / "a.jsonl"), logprobs="never")
    again.ask(asks("a", "b", "c"))  # of the archive
    assert "the endpoint answered as 2 models: j-may (2), j-june (1)" in again.note


def test_a_key_that_is_no_secret_leaves_the_reply_as_it_is(endpoint, monkeypatch):
    monkeypatch.setenv("INFLUBENCH_JUDGE_KEY", "m")
    endpoint.answer = lambda body: (200, said("m"))
    assert endpoint.judge().ask(asks("a"))[0].text == "m"


def test_content_in_parts_is_joined_without_its_thoughts(endpoint):
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "[[1]]"}]}
    parts = [thinking, {"type": "text", "text": "Rating: "}, {"type": "text", "text": "[[8]]"}]
    endpoint.answer = lambda body: (200, said(parts))
    assert endpoint.judge().ask(asks("a", choices=()))[0].text == "Rating: [[8]]"


@pytest.mark.parametrize(
    "message",
    [
        {"content": "", "reasoning_content": "I think that the first"},
        {"content": None},
        {"content": "<think>I think that the first"},
    ],
)
@pytest.mark.parametrize("choices", [NAMES, ()])
def test_a_reasoning_judge_cut_at_our_limit_stops_at_once_and_the_limit_is_named(
    endpoint, message, choices
):
    endpoint.answer = lambda body: (200, said(finish="length", **message))
    with pytest.raises(UserError, match=r"our limit of 4 tokens.*thought_tokens") as caught:
        endpoint.judge().ask(asks(*"abcdefgh", choices=choices))
    assert len(endpoint.bodies) == 1
    assert "\n" not in str(caught.value)
    endpoint.answer = lambda body: (200, said("m"))
    endpoint.judge(thought_tokens=500).ask(asks("a", choices=choices))
    assert endpoint.bodies[-1]["max_tokens"] == 504


def test_a_single_thought_that_runs_on_is_counted_and_not_fatal(endpoint):
    def answer(body):
        long = body["messages"][-1]["content"] == "b"
        return 200, said("" if long else "Rating: [[8]]", finish="length" if long else "stop")

    endpoint.answer = answer
    judge = endpoint.judge(concurrency=1)
    assert [r.text for r in judge.ask(asks("a", "b", "c", choices=()))][1] == ""
    assert "1 of 3 replies were empty" in judge.note


def test_the_other_name_of_the_token_limit_is_found(endpoint):
    message = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    endpoint.answer = lambda body: (
        refused(400, message) if "max_tokens" in body else (200, said("m", SIXTY))
    )
    assert endpoint.judge().ask(asks("a"))[0].probabilities == pytest.approx((0.6, 0.4))
    temperature = "Unsupported value: 'temperature' does not support 0.0 with this model."
    endpoint.answer = lambda body: refused(400, temperature)
    with pytest.raises(UserError, match=r"temperature: 1"):
        endpoint.judge().ask(asks("b"))


@pytest.mark.parametrize(
    "filtered",
    [
        refused(400, "The response was filtered", code="content_filter"),
        refused(400, "violates our content management policy"),
        refused(
            400, "Output data may contain inappropriate content", code="data_inspection_failed"
        ),
        (200, said("", finish="content_filter")),
    ],
)
@pytest.mark.parametrize("place", [0, 1])
def test_what_a_content_filter_holds_back_is_counted_as_unreadable(endpoint, filtered, place):
    bad = "ab"[place]
    endpoint.answer = lambda body: (
        filtered if body["messages"][-1]["content"] == bad else (200, said("m", SIXTY))
    )
    archive = Archive()
    judge = endpoint.judge(archive)
    replies = judge.ask(asks("a", "b"))
    assert replies[place].probabilities is None
    assert replies[1 - place].probabilities == pytest.approx((0.6, 0.4))
    assert "1 of 2 replies were withheld by a content filter" in judge.note
    asked = len(endpoint.bodies)
    endpoint.judge(archive).ask(asks("a", "b"))
    assert len(endpoint.bodies) == asked


@pytest.mark.parametrize(
    "change",
    [
        {"text": None},
        {"money": "free"},
        {"prompt_tokens": None},
        {"key": 7},
        {"choices": None},
        {"top": {"m": None}},
        {"probabilities": [None, 1.0]},
        {"probabilities": [1.0]},
    ],
)
def test_an_archived_line_with_a_field_of_a_wrong_type_is_left_out_and_counted(
    tmp_path, endpoint, change
):
    path = tmp_path / "judgements.jsonl"
    endpoint.answer = lambda body: (200, said("m", SIXTY))
    endpoint.judge(Archive(path)).ask(asks("a", "b"))
    good, other = path.read_text().splitlines()
    path.write_text(f"{good}\nnull\n[]\n{json.dumps(json.loads(other) | change)}\n")
    archive = Archive(path)
    assert (len(archive), archive.damaged) == (1, 3)
    replies = endpoint.judge(archive).ask(asks("a", "b"))
    assert [r.probabilities for r in replies] == [pytest.approx((0.6, 0.4))] * 2


def preferences(folder: Path, rows: list[dict[str, Any]]) -> str:
    path = folder / "prefs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def checked(endpoint: Endpoint, folder: Path, path: str, *more: str) -> dict[str, str]:
    """The numbers of ``judge-check`` by the first words of their row."""
    done = influbench(
        "judge-check", "--preferences", path, "--judge", "openai:j", "--judge-url",
        f"http://127.0.0.1:{endpoint.server.server_port}/v1", "--store", "store", *more, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [re.split(r"\s{2,}", line.strip()) for line in done.stdout.splitlines()]
    return {row[0].split("(")[0].strip(): row[1] for row in rows if len(row) > 2} | {
        "all": done.stdout
    }


PAIR = {"instruction": "Q?", "output_1": "A good one.", "output_2": "Bad.", "preference": 1.0}


def test_a_judge_behind_a_lower_limit_prefers_the_first_by_its_log_probabilities(
    endpoint, tmp_path
):
    def answer(body):
        over = body.get("top_logprobs", 0) > 5
        return refused(400, "top_logprobs must be at most 5") if over else (200, said("m", SIXTY))

    endpoint.answer = answer
    rows = [PAIR | {"instruction": f"Question {n}?"} for n in range(3)]
    found = checked(endpoint, tmp_path, preferences(tmp_path, rows))
    assert found["prefers the answer shown first"] == "60.0"  # not 100, which its text says
    assert "j:top5" in found["all"]


def test_a_judge_that_says_one_text_is_right_on_half_of_turned_pairs_without_ids(
    endpoint, tmp_path
):
    def answer(body):
        shown = body["messages"][-1]["content"]
        return 200, said("m" if shown.index("good") < shown.index("bad") else "M")

    endpoint.answer = answer
    straight = {"id": None, "instruction": "Q", "output_1": "good", "output_2": "bad"}
    turned = straight | {"output_1": "bad", "output_2": "good"}
    rows = [row | {"preference": 1.0} for row in (straight, straight, turned, turned)]
    found = checked(endpoint, tmp_path, preferences(tmp_path, rows))
    assert found["agrees with the record"] == "50.0"
    assert "j:text" in found["all"]


def test_a_filtered_pair_is_left_out_of_the_numbers_and_counted(endpoint, tmp_path):
    def answer(body):
        if "BLOCK" in body["messages"][-1]["content"]:
            return refused(400, "the content management policy")
        return 200, said("m", SIXTY)

    endpoint.answer = answer
    rows = [PAIR | {"instruction": text} for text in ("one?", "BLOCK?", "three?", "four?")]
    found = checked(endpoint, tmp_path, preferences(tmp_path, rows))
    assert found["prefers the answer shown first"] == "60.0"
    assert found["names neither answer"] == "25.0"
    assert "2 of 8 replies were withheld" in " ".join(found["all"].split())


def test_grades_of_a_judge_that_thinks_aloud_are_its_last_ones(endpoint, tmp_path):
    thought = "<think>\n[[1]] is worst. A first guess: [[3]].\n</think>\n\nGood. Rating: [[9]]"
    endpoint.answer = lambda body: (200, said(thought))
    rows = [{"question_id": 1, "category": "writing", "turns": ["Say hello.", "Again."]}]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = influbench(
        "evaluate", "--student", "tiny", "--suite", "mt_bench", "--questions", "q.jsonl",
        "--max-new-tokens", "4", "--temperature", "0", "--judge", "openai:j", "--judge-url",
        f"http://127.0.0.1:{endpoint.server.server_port}/v1", "--run", "r", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "results" / "evaluate" / "r.json").read_text())["rows"]
    table = [dict(zip(rows["columns"], row, strict=True)) for row in rows["data"]]
    grades = {r["metric"]: r["value"] for r in table if r["metric"].startswith("mt_bench/grade_")}
    assert grades == {"mt_bench/grade_1": 9.0, "mt_bench/grade_2": 9.0}
