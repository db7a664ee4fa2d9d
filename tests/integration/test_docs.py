"""The tutorial does what it says: its blocks are taken out of the page and run as they stand."""

import re
import runpy
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from command import influbench, pip_install

from influbench.files import write_jsonl
from influbench.testing import check_estimator, tiny_examples

PAGE = Path(__file__).parents[2] / "docs" / "add-a-method.md"


@dataclass(frozen=True)
class Block:
    language: str
    name: str
    text: str


BLOCKS = [
    Block(*found)
    for found in re.findall(r"^```(\w+) ?(\S*)\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the reader has: their data, and every named block saved under its name."""
    folder = tmp_path_factory.mktemp("tutorial")
    write_jsonl(folder / "mine.jsonl", tiny_examples("mine", 8, siblings=4))
    write_jsonl(folder / "held_out.jsonl", tiny_examples("held-out", 4))
    write_jsonl(folder / "seen.jsonl", tiny_examples("seen", 8))
    for block in BLOCKS:
        if "." in block.name:
            (folder / block.name).write_text(block.text)
    return folder


def shell(name):
    return next(block.text for block in BLOCKS if (block.language, block.name) == ("sh", name))


def commands(name):
    return [shlex.split(line) for line in shell(name).replace("\\\n", " ").splitlines()]


def run(words, folder, path=None) -> subprocess.CompletedProcess[str]:
    assert words[0] == "influbench"
    done = influbench(*words[1:], cwd=folder, path=path)
    assert done.returncode == 0, done.stderr
    return done


def test_the_method_takes_no_more_than_thirty_lines():
    method, check, _ = (block for block in BLOCKS if block.language == "python")
    assert len(f"{method.text}{check.text}{shell('')}".splitlines()) <= 30


def test_the_method_keeps_its_promises(folder, monkeypatch):
    monkeypatch.syspath_prepend(str(folder))
    runpy.run_path(str(folder / "check.py"))


def test_the_gradient_method_keeps_its_promises(folder):
    method = runpy.run_path(str(folder / "alignment.py"))["Alignment"]
    report = str(check_estimator(method()))
    assert "each trained alone: embeddings, self_attn, mlp, norms and biases" in report


def test_it_gets_a_row_in_the_table(folder):
    *scored, compared = [run(words, folder, path=folder) for words in commands("")]
    assert all("8 scores in" in done.stdout for done in scored)
    rows = {line.split()[0]: line for line in compared.stdout.splitlines() if line.strip()}
    assert {"exact", "overlap"} <= rows.keys()


def test_it_is_listed_once_it_is_installed(folder, tmp_path):
    install, *rest = commands("installed")
    assert install == ["pip", "install", "."]
    pip_install(folder, tmp_path / "site")
    listed, scored = [run(words, folder, path=tmp_path / "site") for words in rest]
    assert re.search(r"package +influbench-overlap", listed.stdout)
    assert "min_letters = 4" in listed.stdout
    assert "8 candidates" in scored.stdout
