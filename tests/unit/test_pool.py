"""A pool of processes of which one is lost."""

import os
import signal
import time
from contextlib import closing
from pathlib import Path

from influbench.executors.executor import RETRIES, WorkerLostError, mapped
from influbench.executors.pool import Pool


def task(folder: Path, name: str, _patient: bool) -> str:
    """``doomed`` ends without a word each time; ``long`` ends when that has failed for good."""
    (folder / f"{name}-{os.getpid()}-{time.time_ns()}").touch()
    if name == "doomed":
        while not list(folder.glob("long-*")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    while name == "long" and len(list(folder.glob("doomed-*"))) <= RETRIES:
        time.sleep(0.01)
    return name


def test_a_task_whose_worker_is_lost_again_and_again_takes_no_other_with_it(tmp_path):
    names = ["doomed", "long", "after"]
    with closing(Pool(2)) as pool:
        found = dict(mapped(pool, task, [(tmp_path, name) for name in names]))
    assert found[0].kind == "bug"
    assert f"its worker was lost {RETRIES + 1} times" in found[0].error
    assert [found[n].value for n in (1, 2)] == ["long", "after"]
    assert len(list(tmp_path.glob("long-*"))) == 1, "it was begun once, and went on"


def test_a_worker_that_is_lost_while_idle_is_replaced(tmp_path):
    with closing(Pool(1)) as pool:
        assert pool.submit(task, tmp_path, "a", False).result().value == "a"
        (pid,) = [int(path.name.split("-")[1]) for path in tmp_path.glob("a-*")]
        os.kill(pid, signal.SIGKILL)
        while True:
            try:
                assert pool.submit(task, tmp_path, "b", False).result().value == "b"
                break
            except WorkerLostError:  # it was given to the lost one before anybody knew
                time.sleep(0.01)
