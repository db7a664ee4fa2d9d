"""Two processes with half of the student each give the single process's numbers, and part whole."""

import os
import socket
from pathlib import Path

import children
import numpy as np
import pytest
import torch
from torch import distributed

from influbench import testing
from influbench.derivatives import gradients, step
from influbench.errors import UserError
from influbench.estimator import as_scores
from influbench.estimators.exact import Exact
from influbench.executors import team
from influbench.student import LanguageStudent
from influbench.student.placement import sharded
from influbench.testing import student_state

CANDIDATES = 4
REFERENCES = 5
WORLD = 2


def worker(rank, folder):
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=WORLD)
    ctx = testing.tiny_context(folder, references=REFERENCES)
    assert isinstance(ctx.student, LanguageStudent)
    whole = sum(p.numel() for p in ctx.student.model.parameters())
    student = sharded.shard(ctx.student, torch.device("cpu"))
    object.__setattr__(ctx, "student", student)
    before = local_state(student)
    scorer = Exact().prepare(ctx)
    scores = as_scores(scorer(testing.tiny_examples("candidate", CANDIDATES)), CANDIDATES)
    again = as_scores(scorer(testing.tiny_examples("candidate", 1)), 1)
    with pytest.raises(UserError, match="in shards"):
        gradients.mean_gradient(student, [], ctx.reference)
    assert scores.per_reference is not None
    np.savez(
        folder / f"{rank}.npz",
        value=scores.value,
        each=scores.per_reference,
        again=again.value,
        restored=student_state.same(before, local_state(student)),
        share=sum(w.numel() for w in step.next_update(student).weights) / whole,
        empty=all(p.grad is None for p in student.model.parameters()),
    )
    distributed.destroy_process_group()


def local_state(student):
    slots = step.next_update(student).slots
    return [[t.clone() for t in (slot.weight, *slot.moments)] + [slot.step] for slot in slots]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fsdp")
    processes = [children.FORKS.Process(target=worker, args=(r, folder)) for r in range(WORLD)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * WORLD
    return [dict(np.load(folder / f"{rank}.npz")) for rank in range(WORLD)]


def test_a_sharded_placement_gives_the_single_process_scores(found, tmp_path):
    ctx = testing.tiny_context(tmp_path, references=REFERENCES)
    single = as_scores(
        Exact().prepare(ctx)(testing.tiny_examples("candidate", CANDIDATES)), CANDIDATES
    )
    tolerance = 1e-4 * np.ptp(single.value)
    for process in found:
        assert np.abs(process["value"] - single.value).max() < tolerance
        assert np.abs(process["each"] - single.per_reference).max() < 10 * tolerance
    assert np.array_equal(found[0]["value"], found[1]["value"])


def test_a_sharded_placement_restores_its_shards_bit_for_bit(found):
    for process in found:
        assert process["restored"]
        assert process["empty"]
        assert process["again"][0] == process["value"][0]


def test_each_process_of_a_sharded_placement_holds_a_part_of_the_weights(found):
    shares = [float(process["share"]) for process in found]
    assert sum(shares) == pytest.approx(1)
    assert max(shares) < 0.6


def met(work):
    distributed.barrier()


def teammate(rank, port, folder):
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": WORLD, "MASTER_PORT": port}
    told |= {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "test"}
    os.environ.update({name: str(value) for name, value in told.items()})
    if team.follows():
        team.serve()
    else:
        team.call(met)
        met(work=None)
        team.dismiss()
    threads = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    (folder / f"{rank}.threads").write_text("".join(threads))


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux")
def test_processes_that_part_keep_no_thread_of_their_groups(tmp_path):
    """A thread that lets go of a tensor while the interpreter ends aborts the process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        children.FORKS.Process(target=teammate, args=(r, port, tmp_path)) for r in range(WORLD)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * WORLD
    for rank in range(WORLD):
        assert "gloo" not in (tmp_path / f"{rank}.threads").read_text()
