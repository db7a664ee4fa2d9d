"""Servers that we start and end: real processes, with children, killed, refused and ignored."""

import http.client
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from started_server import wanted

from influbench import generation, judging, models
from influbench.data.records import Candidate, SeedPrompt
from influbench.errors import UserError
from influbench.foreign import environments, served
from influbench.foreign.served import Served
from influbench.generation.attempts import GenerationConfig
from influbench.generation.choosing import Sampling
from influbench.generation.engines import opened
from influbench.generation.settings import EngineSettings
from influbench.judging import JudgeConfig, Request
from influbench.store import Meter, Store, Work

OWNER = """
import sys, time
from pathlib import Path
from influbench.foreign.served import Served
from tests.started_server import wanted

server = Served(wanted(Path(sys.argv[1])))
print("ready", flush=True)
time.sleep(600)
"""


def pids(folder: Path) -> list[int]:
    lines = (folder / "server.log").read_text().splitlines()
    return [int(word) for line in lines if line.startswith("pids") for word in line.split()[1:]]


def gone(numbers: list[int]) -> bool:
    """Whether none of them runs any more, a while from now at the latest."""
    assert numbers
    for _ in range(200):
        if not any(map(runs, numbers)):
            return True
        time.sleep(0.1)
    return False


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def told_to_die(url: str) -> None:
    connection = http.client.HTTPConnection(url.removeprefix("http://").removesuffix("/v1"))
    connection.request("GET", "/die")
    with pytest.raises((OSError, http.client.HTTPException)):
        connection.getresponse()
    time.sleep(1)
    raise UserError("no answer")


def test_it_is_ready_in_the_block_and_gone_with_its_children_after_it(tmp_path):
    with Served(wanted(tmp_path)) as server:
        assert server.url.startswith("http://127.0.0.1:")
        assert all(map(runs, pids(tmp_path)))
    assert gone(pids(tmp_path))


def test_an_error_of_ours_ends_it_and_is_not_blamed_on_it(tmp_path):
    with pytest.raises(UserError, match=r"^ours$"), Served(wanted(tmp_path)):
        raise UserError("ours")
    assert gone(pids(tmp_path))


def test_a_server_whose_owner_is_killed_ends(tmp_path):
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == "ready\n"
    assert all(map(runs, pids(tmp_path)))
    owner.send_signal(signal.SIGKILL)
    owner.communicate()
    assert gone(pids(tmp_path))


def test_a_server_that_does_not_end_when_told_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(served, "END_SECONDS", 0.5)
    with Served(wanted(tmp_path, "deaf")):
        pass
    assert gone(pids(tmp_path))


def test_a_server_that_cannot_start_is_quoted(tmp_path):
    with pytest.raises(UserError) as caught:
        Served(wanted(tmp_path, "broken"))
    said = str(caught.value)
    assert said.startswith("a server stopped by itself (exit code 1): ValueError: no such architec")
    assert str(tmp_path / "server.log") in said
    assert "\n" not in said
    assert gone(pids(tmp_path))


def test_a_server_that_is_never_ready_is_ended(tmp_path):
    with pytest.raises(UserError, match=r"ready within 3 s"):
        Served(wanted(tmp_path, "never", seconds=3.0))  # long enough for it to tell its pids
    assert gone(pids(tmp_path))


def test_a_server_that_dies_at_work_is_named_and_its_output_is_kept(tmp_path):
    with pytest.raises(UserError, match="stopped by itself"), Served(wanted(tmp_path)) as server:
        told_to_die(server.url)
    assert gone(pids(tmp_path))


def test_a_port_that_another_process_took_meanwhile_is_left_to_it(tmp_path, monkeypatch):
    free = served._free_port
    with Served(wanted(tmp_path)) as first:
        ports = iter([first._port])
        monkeypatch.setattr(served, "_free_port", lambda: next(ports, None) or free())
        other = tmp_path / "other"
        other.mkdir()
        with Served(wanted(other, model="another")) as second:
            assert second.url != first.url
            assert "Address already in use" in (other / "server.log").read_text()
        assert gone(pids(other))


@pytest.fixture
def llama_for_vllm(monkeypatch, tmp_path) -> Iterator[Path]:
    """An environment in which llama.cpp's server answers to the command line of vLLM's."""
    pytest.importorskip("xllamacpp")
    monkeypatch.setenv("INFLUBENCH_CACHE", str(tmp_path / "cache"))
    folder = environments.toolkit("vllm").folder
    (folder / "bin").mkdir(parents=True)
    script = shutil.copy(Path(__file__).parents[1] / "llama_server.py", folder)
    python = folder / "bin" / "python"
    python.write_text(f'#!/bin/sh\nshift 3\nexec {sys.executable} {script} "$@"\n')
    python.chmod(0o755)
    (folder / environments.MARKER).write_text("{}")
    yield folder
    assert not [
        p.pid for p in psutil.process_iter(["cmdline"]) if script in (p.info["cmdline"] or ())
    ]


def test_a_teacher_writes_on_a_server_of_its_own(llama_for_vllm, tmp_path, smollm2_ref):
    sampling = {"temperature": 1.0, "top_p": 0.9, "max_new_tokens": 10}
    cfg = GenerationConfig(
        engine="vllm",
        vllm_arguments=("--max-model-len=2048",),
        num_candidates=2,
        num_shots=2,
        num_own_shots=0,
        instructions_per_seed=2,
        prefill=True,
        one_line=True,
        accept_unclosed=True,
        instruction=Sampling(**sampling),
        response=Sampling(**sampling),
    )
    seeds = [SeedPrompt(id=f"s{i}", instruction=f"About {w}.") for i, w in enumerate("abc")]
    entry = Store(tmp_path / "store").run(generation.STAGE, cfg, seeds, smollm2_ref, "t")
    assert len(entry.records("candidates", Candidate)) == 2
    phases = {row.phase: row for row in entry.ledger()}
    assert phases["start"].seconds > 0
    assert phases["responses"].api_calls >= 2
    asked = json.loads((llama_for_vllm / "asked.json").read_text())
    assert asked[-1] == "--max-model-len=2048"
    # A seeded prompt that is read in parts ends vLLM 0.32 on a CPU.
    assert ("--no-enable-chunked-prefill" in asked) == (models.device_of("auto") == "cpu")
    assert not [path.name for path in entry.path.iterdir() if path.name == "scratch"]


def test_a_judge_answers_on_a_server_of_its_own(llama_for_vllm, tmp_path, smollm2_ref):
    pytest.importorskip("openai")
    cfg = JudgeConfig(kind="vllm", model=smollm2_ref.path, max_tokens=8, device="cpu")
    archive = tmp_path / "judgements.jsonl"
    asked = [
        Request(
            id="a", messages=(("user", "Is the sky blue? Say yes or no."),), choices=("yes", "no")
        ),
        Request(id="b", messages=(("user", "Name a colour."),), max_tokens=4),
    ]
    judge = judging.build(cfg, archive)
    first = judge.ask(asked)
    assert all(reply.text for reply in first)
    assert judge.name.startswith("vllm:")
    assert judge.name.endswith(("float32", "float32:text"))
    del judge
    again = judging.build(cfg, archive)  # from the archive: nothing is started
    shutil.rmtree(llama_for_vllm)
    assert again.ask(asked) == first


def work_in(folder: Path) -> Work:
    return Work(folder, Meter())


def test_an_environment_that_is_not_there_is_one_line(tmp_path, monkeypatch, tiny_ref):
    monkeypatch.setenv("INFLUBENCH_CACHE", str(tmp_path))
    cfg = EngineSettings(engine="vllm")
    with (
        pytest.raises(UserError, match=r"python -m influbench\.foreign install vllm"),
        opened(cfg, tiny_ref, dtype="float32", device="cpu", work=work_in(tmp_path)),
    ):
        pass


def test_arguments_that_are_ours_are_refused(tmp_path, tiny_ref):
    cfg = EngineSettings(engine="vllm", vllm_arguments=("--port=80",))
    with (
        pytest.raises(UserError, match="expected none of"),
        opened(cfg, tiny_ref, dtype="float32", device="cpu", work=work_in(tmp_path)),
    ):
        pass
