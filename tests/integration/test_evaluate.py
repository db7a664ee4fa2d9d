"""``influbench evaluate`` and ``judge-check``: the tiny student, a tiny judge, a counted server."""

import inspect
import json
import subprocess
import sys
import time
from pathlib import Path

import children
import pytest
from faulty_server import KEY, Faulty

from influbench.cli import evaluation as commands
from influbench.cli.main import main
from influbench.results import load_study

CATEGORIES = ("writing", "math", "coding")


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Prompts, questions with references, a baseline's outputs, preferences, grade-school math."""
    folder = tmp_path_factory.mktemp("files")
    things = ["lakes", "trees", "birds", "stones", "cars", "songs"]
    prompts = [{"instruction": f"Name two {t}.", "output": f"Two {t}."} for t in things]
    questions = [
        {"question_id": n, "category": c, "turns": [f"What is {n}?", "And why?"]}
        for n, c in enumerate(CATEGORIES)
    ]
    references = [{"question_id": n, "choices": [{"turns": ["It is.", "So."]}]} for n in (1, 2)]
    sums = [{"question": f"{n} + {n}?", "answer": f"#### {2 * n}"} for n in range(6)]
    return {
        "prompts": write(folder / "prompts.jsonl", prompts),
        "questions": write(folder / "questions.jsonl", questions),
        "references": write(folder / "references.jsonl", references),
        "outputs": write(
            folder / "outputs.jsonl",
            [{**p, "output": p["output"] * 3, "generator": "gpt-x"} for p in prompts],
        ),
        "preferences": write(
            folder / "preferences.jsonl",
            [
                {"prompt": "Say hi.", "chosen": "Hello there!", "rejected": "No."},
                {"prompt": "Say bye.", "chosen": "Bye.", "rejected": "I would rather not."},
            ],
        ),
        "math": write(folder / "math.jsonl", sums),
    }


def setting(key, value):
    return ["--set", f"{key}={value}"]


def arguments(files, suites, *more):
    return [
        *("evaluate", "--student", "tiny", "--suite", suites, "--max-new-tokens", "8"),
        *("--prompts", files["prompts"], "--questions", files["questions"]),
        *setting("data.question_answers", files["references"]),
        *more,
    ]


@pytest.fixture
def command(monkeypatch, tmp_path, capfd):
    """Runs the command in this process and folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["influbench", *words])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        said = capfd.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def faulty(monkeypatch):
    monkeypatch.setenv("INFLUBENCH_JUDGE_KEY", KEY)
    server = Faulty()
    yield server
    server.close()


def saved(folder):
    study = load_study("evaluate", folder / "results")
    assert len(study.runs) == 1
    return next(iter(study.runs.values()))


def value(result, metric):
    return next(row for row in result.rows if row.metric == metric).value


def test_all_suites_with_a_local_judge_and_again_from_the_store(command, files, tmp_path):
    pytest.importorskip("lm_eval")
    suites = "alpaca_eval,mt_bench,mt_bench_pairwise,head_to_head,harness:gsm8k_local"
    words = arguments(files, suites, "--judge", "local:tiny", "--baseline", "tiny:1")
    words += setting("evaluation.harness.gsm8k_train", files["math"])
    words += setting("evaluation.harness.gsm8k_test", files["math"])
    words += setting("evaluation.harness.shots", 1)
    words += ["--preferences", files["preferences"], "--limit", "5"]
    code, out, err = command(*words)
    assert code == 0, err
    result = saved(tmp_path)
    metrics = {row.metric for row in result.rows}
    assert metrics >= {
        *("alpaca_eval/win_rate", "alpaca_eval/win_rate_lc_length_only"),
        *("alpaca_eval/judge_prefers_first", "alpaca_eval/judge_unparseable"),
        *("mt_bench/grade_1", "mt_bench/grade_2", *(f"mt_bench/grade/{c}" for c in CATEGORIES)),
        *("head_to_head/win", "head_to_head/tie", "head_to_head/lose", "mt_bench_pairwise/win_2"),
        *("head_to_head/judge_prefers_first", "harness:gsm8k_local/exact_match/strict-match"),
    }
    assert sum(value(result, f"head_to_head/{n}") for n in ("win", "tie", "lose")) == 100.0
    wins = [o for o in result.outcomes["tiny"] if o.metric == "alpaca_eval/win"]
    assert len(wins) == 5
    assert value(result, "alpaca_eval/win_rate") == pytest.approx(20 * sum(o.value for o in wins))
    notes = "\n".join(result.notes)
    assert "one-turn answers: greedy, at most 8 tokens" in notes
    assert "writing 0.7" in notes
    assert "exercises the plumbing only" in notes
    assert "agrees with the record on" in notes
    assert "gsm8k_local 1" in notes
    assert "plumbing" in out
    before = {p: p.read_bytes() for p in (tmp_path / "results").rglob("*.json")}
    code, again, err = command(*words)
    assert code == 0, err
    assert "started" not in err
    assert again == out
    assert {p: p.read_bytes() for p in (tmp_path / "results").rglob("*.json")} == before


def endpoint(server, *more):
    return [
        *("--judge", "openai:judge-1", "--judge-url", server.url),
        *(*setting("judge.backoff_s", 0.02), *setting("judge.timeout_s", 30), *more),
    ]


def spent(result):
    rows = [row for row in result.ledger if row.phase == "judge"]
    return tuple(
        sum(getattr(row, name) for row in rows)
        for name in ("api_calls", "api_prompt_tokens", "api_completion_tokens")
    )


def counted(server):
    """What the server says of the requests that it answered."""
    calls = sum(server.served.values())
    return calls, sum(len(p) * n for p, n in server.served.items()), calls


def assert_no_key(folder, *said):
    for text in said:
        assert KEY not in text
    for path in Path(folder).rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path


def test_killed_and_resumed_nothing_is_asked_twice(command, faulty, files, tmp_path):
    words = arguments(files, "alpaca_eval,mt_bench", "--baseline", files["outputs"])
    words += endpoint(faulty, *setting("judge.concurrency", 2))
    for kill_after in (3, 14):  # once among the comparisons, once among the grades
        process = children.command(*words, cwd=tmp_path)
        try:
            hold(faulty, kill_after, process)
        finally:
            process.kill()
            process.wait()
        faulty.always = ""
        faulty.released.set()
        assert kill_after <= sum(faulty.served.values()) < 12 + 6
        faulty.released.clear()
    code, out, err = command(*words)
    assert code == 0, err
    assert set(faulty.served.values()) == {1}
    assert counted(faulty)[0] == 2 * 6 + 2 * len(CATEGORIES)
    assert spent(saved(tmp_path)) == counted(faulty)
    assert value(saved(tmp_path), "mt_bench/grade") == 7.0
    # The server prefers the first place with probability 0.9: both orders cancel it out.
    assert value(saved(tmp_path), "alpaca_eval/win_rate") == pytest.approx(50.0)
    assert value(saved(tmp_path), "alpaca_eval/judge_prefers_first") == pytest.approx(90, abs=0.1)
    assert "against gpt-x" in out
    assert_no_key(tmp_path, out, err)


def hold(server, after, process, in_flight=2):
    """Waits until the server has answered ``after`` requests and lets all others wait."""
    while sum(server.served.values()) < after:
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.001)
    server.always = "hang"
    # All that was answered is kept: a worker asks anew only after keeping its last reply.
    while (gap := sum(server.tries.values()) - sum(server.served.values())) % in_flight or not gap:
        time.sleep(0.01)
    time.sleep(0.3)


def test_a_spending_cap_holds_over_suites_and_attempts(command, faulty, files, tmp_path):
    words = arguments(files, "alpaca_eval,mt_bench") + endpoint(faulty)
    priced = ["--prompt-price", "1000", "--completion-price", "1000"]
    priced += setting("judge.max_tokens", 4)
    code, _, err = command(*words, *priced)
    assert code == 0, err
    money = {row.stage: row.money for row in saved(tmp_path).ledger if row.phase == "judge"}
    assert sum(money.values()) == pytest.approx(sum(counted(faulty)[1:]) / 1000)
    limit = money["compare"] + 0.9 * money["grade"]  # the first suite alone stays below it
    cap = ["--max-dollars", str(limit), "--store", "other"]
    for _ in range(2):
        code, _, err = command(*words, *priced, *cap)
        assert code == 2
        assert "stopped at its spending cap" in err.splitlines()[-1]
        lines = (tmp_path / "other" / "judgements.jsonl").read_text().splitlines()
        assert money["compare"] <= sum(json.loads(line)["money"] for line in lines) <= limit
    code, _, err = command(*words, *priced, "--store", "other")
    assert code == 0, err
    assert set(faulty.served.values()) == {2}


def test_refusals_are_one_line_without_the_key(command, faulty, files, tmp_path):
    faulty.always = "401"
    code, out, err = command(*arguments(files, "alpaca_eval"), *endpoint(faulty))
    assert code == 2
    assert "check the key in $INFLUBENCH_JUDGE_KEY" in err.splitlines()[-1]
    code, out, more = command(
        "judge-check", "--preferences", files["preferences"], *endpoint(faulty)
    )
    assert code == 2
    assert_no_key(tmp_path, out, err, more)


def test_a_judge_is_checked_by_itself(command, faulty, files, tmp_path):
    words = ["judge-check", "--preferences", files["preferences"], *endpoint(faulty)]
    code, out, err = command(*words)
    assert code == 0, err
    rows = {
        line.rsplit(maxsplit=3)[0].strip(): line.split()[-3:]
        for line in out.splitlines()
        if line.strip() and len(line.split()) > 3
    }
    assert rows["prefers the answer shown first (50 = no position bias)"][0] == "90.0"
    assert rows["agrees with the record (ties in the record left out)"] == ["50.0", "0.0", "2"]
    assert rows["favours the same answer in both orders"][0] == "0.0"
    assert counted(faulty)[0] == 4
    code, again, err = command(*words)
    assert (code, again, counted(faulty)[0]) == (0, out, 4)


ONE_ORDER, TEMPO, GAMED = (
    setting(*pair)
    for pair in (("evaluation.orders", "one"), ("judge.tempo", 1), ("evaluation.gamed", "no.csv"))
)


@pytest.mark.parametrize(
    ("suites", "more", "expected"),
    [
        ("alpaca", [], "expected one or more of losses, alpaca_eval"),
        ("", [], "evaluation.suites: expected one or more of"),
        ("alpaca_eval", [], "needs a judge: give --judge KIND:MODEL"),
        ("alpaca_eval", ["--judge", "gpt-4"], "expected KIND:MODEL"),
        ("alpaca_eval", ["--judge", "local:tiny", *ONE_ORDER], "'evaluation.orders'"),
        ("alpaca_eval", ["--judge", "openai:x", "--max-dollars", "1"], "needs prompt_price"),
        ("alpaca_eval", ["--judge", "local:tiny", *TEMPO], "no setting 'judge.tempo'"),
        ("alpaca_eval", ["--judge", "local:tiny", "--baseline", "./none"], "expected a folder"),
        ("alpaca_eval", ["--judge", "local:tiny", *GAMED], "df_gamed.csv"),
        ("mt_bench_pairwise", ["--judge", "local:tiny"], "needs --baseline MODEL"),
        ("harness:gsm8k_local", [], "needs evaluation.harness.gsm8k_train"),
        ("alpaca_eval", ["--judge", "recorded:gpt-4"], "is recorded, and 12 of the judgements"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(command, files, suites, more, expected):
    code, _, err = command(*arguments(files, suites), *more)
    assert code == 2
    line = err.strip().splitlines()[-1]
    assert line.startswith("influbench: ")
    assert expected in line
    if "recorded" not in expected:
        assert len(err.strip().splitlines()) == 1


def test_questions_without_their_references_are_refused_before_any_answer(command, files):
    words = ["evaluate", "--student", "tiny", "--suite", "mt_bench", "--judge", "local:tiny"]
    code, _, err = command(*words, "--questions", files["questions"])
    assert code == 2
    assert "question '1' (math): expected a reference answer" in err


def test_the_commands_are_listed_without_torch(tmp_path):
    code = (
        "import sys, influbench.cli.evaluation, influbench.__main__\n"
        "assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_student_takes_the_chat_template_that_it_is_given(command, files, tmp_path):
    words = arguments(files, "alpaca_eval", "--judge", "local:tiny", "--limit", "1")
    template = "{% for m in messages %}<{{ m['content'] }}>{% endfor %}"
    (tmp_path / "own.jinja").write_text(template)
    code, _, err = command(*words, *setting("student.chat_template", "own.jinja"))
    assert code == 0, err
    manifests = [json.loads(p.read_text()) for p in tmp_path.glob(".influbench/*/manifest.json")]
    (told,) = [m["config"]["chat_template"] for m in manifests if m["stage"] == "template"]
    assert told == template


def test_answers_cut_at_the_limit_are_counted_in_the_notes(command, files, tmp_path):
    words = arguments(files, "alpaca_eval", "--judge", "local:tiny", "--limit", "2")
    assert command(*words)[0] == 0
    notes = saved(tmp_path).notes
    assert "answers of tiny: 2 of 2 turns cut at the limit of tokens" in notes


def test_losses_alone_need_no_judge(command, files, tmp_path):
    assert command(*arguments(files, "losses"))[0] == 0
    (row,) = saved(tmp_path).rows
    assert (row.metric, row.n, row.unit) == ("heldout_loss", 6, "nats/token")


@pytest.mark.parametrize("name", ["evaluate", "judge_check"])
def test_a_command_has_fewer_than_thirty_options(name):
    assert len(inspect.signature(getattr(commands, name)).parameters) < 30
