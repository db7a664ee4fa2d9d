"""An edited method of somebody else is scored anew; ours keep their keys."""

import importlib
import json
import sys

import pytest
from command import influbench

from influbench.estimator import registry
from influbench.estimator.source import source_of
from influbench.files import write_jsonl
from influbench.testing import tiny_examples

METHOD = """
from dataclasses import dataclass
import numpy  # of another package, which is not looked at
from influbench.estimator import Facts
{more}

@dataclass(frozen=True)
class Mine{base}:
    facts = Facts("rank", "mine")

    def prepare(self, ctx):
        return lambda examples: [{sign}float(len(e.response)) for e in examples]
"""


def written(folder, name="mine.py", sign="", more="", base=""):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(METHOD.format(sign=sign, more=more, base=base))


@pytest.fixture
def source(tmp_path, monkeypatch):
    """What the code of a method comes to, read anew."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def fresh(name="mine:Mine", **options):
        forget()
        return source_of(registry.build(name, options))

    yield fresh
    forget()


def forget():
    for name in [n for n in sys.modules if n.partition(".")[0] in ("mine", "beside", "packed")]:
        del sys.modules[name]
    importlib.invalidate_caches()


def test_methods_of_ours_are_no_part_of_a_key():
    assert {source_of(registry.build(name)) for name in registry.available()} == {""}


def test_an_edited_file_is_another_method(tmp_path, source):
    written(tmp_path)
    first = source()
    assert first == source()
    written(tmp_path, sign="-")
    assert source() != first


def test_so_is_one_that_imports_an_edited_file_beside_it(tmp_path, source):
    written(tmp_path, more="from beside import helped")
    found = []
    for text in ("1", "2", "2"):
        (tmp_path / "beside.py").write_text(f"def helped():\n    return {text}\n")
        found.append(source())
    assert found[0] != found[1] == found[2]


def test_so_is_one_that_inherits_from_it_or_is_of_its_package(tmp_path, source):
    written(tmp_path, more="from beside import Base", base="(Base)")
    (tmp_path / "beside.py").write_text("class Base:\n    pass\n")
    first = source()
    (tmp_path / "beside.py").write_text("class Base:\n    more = 1\n")
    assert source() != first
    package = tmp_path / "packed"
    written(package / "inner", "deep.py", more="from packed import tools")
    (package / "__init__.py").write_text("")
    (package / "tools.py").write_text("a = 1\n")
    first = source("packed.inner.deep:Mine")
    (package / "tools.py").write_text("a = 2\n")
    assert source("packed.inner.deep:Mine") != first


def test_so_is_an_ensemble_that_has_it_for_a_member(tmp_path, source):
    written(tmp_path)
    first = source("ensemble", members=("length", "mine:Mine"))
    written(tmp_path, sign="-")
    again = source("ensemble", members=("length", "mine:Mine"))
    assert first
    assert again
    assert again != first


def test_what_stands_beside_installed_modules_is_nothing_of_theirs(tmp_path, source, monkeypatch):
    place = tmp_path / "site-packages"
    monkeypatch.syspath_prepend(str(place))
    written(place, more="import beside")
    (place / "beside.py").write_text("a = 1\n")
    first = source()
    (place / "beside.py").write_text("a = 2\n")
    assert source() == first


def test_the_command_scores_an_edited_method_anew(tmp_path, source):
    write_jsonl(tmp_path / "c.jsonl", tiny_examples("candidate", 4))
    write_jsonl(tmp_path / "r.jsonl", tiny_examples("reference", 2))
    words = ["score", "--student", "tiny", "--candidates", "c.jsonl", "--reference", "r.jsonl"]
    found = []
    for number, sign in enumerate(("", "-", "")):
        written(tmp_path, sign=sign)
        forget()
        out = f"{number}.jsonl"
        done = influbench(*words, "--estimator", "mine:Mine", "--out", out, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        rows = (tmp_path / out).read_text().splitlines()
        found.append([json.loads(row)["score"] for row in rows])
    assert found[1] == [-score for score in found[0]]
    assert found[2] == found[0]
    assert len(list((tmp_path / ".influbench").glob("score-mine*"))) == 2
