"""Where a sweep runs changes no record: a pool, submitit's jobs, Ray; one stage shared on Ray."""

import importlib.util
import os
import threading
import time
from pathlib import Path

import psutil
import pytest
from command import influbench

from influbench import executors
from influbench.config import checked
from influbench.executors import ExecutorConfig
from influbench.files import write_jsonl
from influbench.studies import grid
from influbench.studies.study_file import load_study
from influbench.testing import tiny_examples

STUDY = """
name: where
question: Does it matter where?
base: tiny
set: {scoring.compare: [random], scoring.chunk_size: 1, scoring.estimator: exact}
grid: {seed: [0, 1]}
"""

needs_submitit = pytest.mark.skipif(
    importlib.util.find_spec("submitit") is None, reason="needs submitit (extra slurm)"
)


def records(store: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(store)): path.read_bytes()
        for path in store.glob("[!.]*/*.jsonl")
        if path.name != "ledger.jsonl"
    }


def swept(folder: Path, **where) -> dict[str, bytes]:
    file = folder / "where.yaml"
    file.write_text(STUDY)
    cfg = checked(ExecutorConfig, where, "test")
    found = grid.run_all(load_study(file), folder / "store", folder / "results", cfg)
    assert len(found.done) == 2
    assert not found.failed
    return records(folder / "store")


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> dict[str, bytes]:
    return swept(tmp_path_factory.mktemp("local"))


@pytest.fixture(scope="module")
def cluster():
    """Ray on this machine, started once: it takes seconds."""
    ray = pytest.importorskip("ray", reason="needs Ray (extra cluster)")
    env = {k: v for k, v in os.environ.items() if k.startswith(("INFLUBENCH_", "HF_", "OMP_"))}
    with pytest.MonkeyPatch.context() as patch:
        # Ray's workers are at nice 15: beside the other tests they got a tenth of a core.
        patch.setenv("RAY_worker_niceness", "0")
        ray.init(
            address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
            logging_level="ERROR", runtime_env={"env_vars": env},
        )  # fmt: skip
        yield ray
        ray.shutdown()


@pytest.mark.slow
def test_a_pool_leaves_the_same_records(tmp_path, local):
    assert swept(tmp_path, kind="pool", workers=2) == local


@pytest.mark.slow
@needs_submitit
def test_jobs_of_submitit_leave_the_same_records(tmp_path, local):
    assert swept(tmp_path, kind="slurm", slurm_cluster="local", workers=2) == local


@pytest.mark.slow
def test_ray_leaves_the_same_records_though_a_worker_is_killed(tmp_path, local, cluster):
    killed: list[int] = []

    def kill_one() -> None:
        end = time.monotonic() + 600
        while not killed and time.monotonic() < end:
            time.sleep(0.05)
            if len(list((tmp_path / "store").glob("*/ledger.jsonl"))) < 5:
                continue
            for process in psutil.Process().children(recursive=True):
                if process.name().startswith("ray::_on_a_node"):
                    process.kill()
                    killed.append(process.pid)
                    break

    killer = threading.Thread(target=kill_one)
    killer.start()
    found = swept(tmp_path, kind="ray", workers=2)
    killer.join()
    assert killed
    assert found == local


@pytest.mark.slow
def test_ray_shares_the_candidates_of_one_stage(tmp_path, cluster):
    for name, count in {"candidate": 6, "reference": 3, "warmup": 4}.items():
        write_jsonl(tmp_path / f"{name}.jsonl", tiny_examples(name, count))
    command = ["score", "--student", "tiny", "--candidates", "candidate.jsonl"]
    command += ["--reference", "reference.jsonl", "--warmup", "warmup.jsonl", "--chunk-size", "2"]
    alone = influbench(*command, "--out", "a.jsonl", "--store", "a", cwd=tmp_path)
    ray = ("--executor", "ray", "--workers", "2")
    shared = influbench(*command, *ray, "--out", "b.jsonl", "--store", "b", cwd=tmp_path)
    assert (alone.returncode, shared.returncode) == (0, 0), shared.stderr
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_an_executor_that_is_not_installed_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    for kind, extra in (("ray", "cluster"), ("slurm", "slurm")):
        with pytest.raises(ValueError, match=rf"pip install 'influbench\[{extra}\]'"):
            executors.build(ExecutorConfig.model_validate({"kind": kind}), tmp_path)


def test_an_unknown_executor_is_one_line(tmp_path):
    (tmp_path / "s.yaml").write_text(STUDY)
    done = influbench("sweep", "s.yaml", "--executor", "nosuch", cwd=tmp_path)
    assert done.returncode == 2
    assert "setting 'kind': Input should be 'local', 'pool', 'slurm' or 'ray'" in done.stderr
