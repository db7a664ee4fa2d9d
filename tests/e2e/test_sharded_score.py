"""Processes that torchrun starts share a student's shards; to a user they are one command."""

import json

import children
import pandas as pd
import pytest
from command import influbench

from influbench import testing

pytestmark = pytest.mark.slow

WORDS = ["score", "--student", "tiny", "--candidates", "c.jsonl", "--reference", "r.jsonl"]
WORDS += ["--warmup", "w.jsonl", "--device", "cpu", "--chunk-size", "2"]
WORDS += ["--set", "warmup.learning_rate=1e-3"]


@pytest.fixture
def files(tmp_path):
    for name, kind, count in (("c", "candidate", 5), ("r", "reference", 4), ("w", "warmup", 4)):
        rows = [
            {"id": e.id, "instruction": e.turns[0][1], "response": e.response}
            for e in testing.tiny_examples(kind, count)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(text)
    return tmp_path


TORCHRUN = """
import os, runpy, sys
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

def work():
    opened = os.open("stdout.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(opened, 1)
    runpy.run_module("influbench", run_name="__main__", alter_sys=True)

elastic_launch(
    LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=2, start_method="fork", rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", run_id="test", max_restarts=0,
    ),
    work,
)()
"""


def torchrun(*words, cwd):
    """What ``torchrun --standalone --nproc-per-node 2 -m influbench WORDS`` starts.

    Torch's own agent and its environment, but forked: three processes that import torch anew took
    ten seconds of a core more.
    """
    return children.python(TORCHRUN, *words, cwd=cwd)


def scores(file):
    return pd.read_json(file, lines=True).set_index("id")["score"]


def test_a_sharded_placement_gives_the_scores_of_one_process_and_is_one_command(files):
    alone = influbench(*WORDS, "--store", "one", "--out", "one.jsonl", cwd=files)
    assert alone.returncode == 0, alone.stderr
    told = [*WORDS, "--placement", "sharded", "--store", "two", "--out", "two.jsonl"]
    shared = torchrun(*told, cwd=files)
    assert shared.wait() == 0, shared.said()
    one, two = scores(files / "one.jsonl"), scores(files / "two.jsonl")
    floor = json.loads((files / "one.jsonl.meta.json").read_text())["diagnostics"]["noise_floor"]
    assert list(one.index) == list(two.index)
    assert (one - two).abs().max() < max(floor, 1e-3 * one.std())
    assert (files / "stdout.txt").read_text().count("5 scores in two.jsonl") == 1
    assert len(list((files / "two").glob("score-exact-*"))) == 1
