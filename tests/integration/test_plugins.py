"""A third-party package: installed by pip, listed, checked, used; and refused where names clash."""

import json
import shutil
from pathlib import Path

import pytest
from command import influbench, pip_install, python

from influbench import testing
from influbench.estimator import registry
from influbench.files import write_jsonl
from influbench.testing import tiny_examples

PACKAGE = Path(__file__).parents[1] / "plugins" / "influbench_wordcount"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder of site packages with the foreign package in it."""
    target = tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("source") / PACKAGE.name
    shutil.copytree(PACKAGE, source)
    pip_install(source, target)
    return target


def test_it_is_listed_with_its_package(installed, tmp_path):
    done = python("-m", "influbench", "estimators", cwd=tmp_path, path=installed)
    assert done.returncode == 0, done.stderr
    row = next(line for line in done.stdout.splitlines() if "wordcount" in line)
    assert row.split() == ["wordcount", "rank", "text", "0", "0", "influbench-wordcount"]
    assert "wordcount" not in influbench("estimators", cwd=tmp_path).stdout


def test_it_keeps_its_promises(installed, monkeypatch):
    monkeypatch.syspath_prepend(str(installed))
    testing.check_estimator(registry.build("wordcount", {"min_letters": 3}))


def test_it_scores_and_its_options_are_checked(installed, tmp_path):
    candidates = tiny_examples("candidate", 6)
    write_jsonl(tmp_path / "c.jsonl", candidates)
    write_jsonl(tmp_path / "r.jsonl", tiny_examples("reference", 3))
    data = ("--student", "tiny", "--candidates", "c.jsonl", "--reference", "r.jsonl")
    use = ("score", *data, "--estimator", "wordcount")
    done = influbench(
        *use, "--set", "options.min_letters=4", "--out", "s.jsonl", cwd=tmp_path, path=installed
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    expected = [float(sum(len(w) >= 4 for w in c.response.split())) for c in candidates]
    assert [row["score"] for row in rows] == expected
    assert [row["group"] for row in rows] == [c.group for c in candidates]
    meta = json.loads((tmp_path / "s.jsonl.meta.json").read_text())
    assert meta["estimator"] == "wordcount"
    assert meta["options"] == {"min_letters": 4}
    assert meta["scale"] == "rank"
    assert {row["phase"] for row in meta["ledger"]} >= {"prepare", "score"}
    done = influbench(*use, "--set", "options.min_leters=4", cwd=tmp_path, path=installed)
    assert done.returncode == 2
    assert "did you mean 'min_letters'" in done.stderr


@pytest.mark.parametrize("taken", ["wordcount", "length"])
def test_two_packages_claiming_one_name_are_both_named(installed, tmp_path, taken):
    """Whether the other one is foreign or ours."""
    twin, site = tmp_path / "twin", tmp_path / "site"
    shutil.copytree(PACKAGE, twin)
    settings = (twin / "pyproject.toml").read_text()
    settings = settings.replace('"influbench-wordcount"', '"influbench-twin"')
    settings = settings.replace("influbench_wordcount", "influbench_twin")
    (twin / "pyproject.toml").write_text(settings.replace("wordcount = ", f"{taken} = "))
    (twin / "influbench_wordcount.py").rename(twin / "influbench_twin.py")
    shutil.copytree(installed, site)
    pip_install(twin, site)
    done = influbench("estimators", cwd=tmp_path, path=site)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    other = "influbench-wordcount" if taken == "wordcount" else "influbench"
    assert f"estimator '{taken}' is claimed by two packages" in done.stderr
    assert other in done.stderr.replace("influbench-twin", "")
    assert "influbench-twin" in done.stderr


BROKEN = '''
"""Breaks."""
from dataclasses import dataclass
from influbench import Facts

@dataclass(frozen=True)
class Broken:
    """Breaks."""
    facts = Facts("rank", "a package with a mistake")

    def prepare(self, ctx):
        return lambda examples: {}["nothing"]
'''


def test_its_own_error_names_run_and_estimator_and_is_not_called_our_bug(tmp_path):
    (tmp_path / "brokenmethod.py").write_text(BROKEN)
    settings = ("stop_after=scores", "scoring.estimator=none", "scoring.compare=[exact, BROKEN]")
    more = [part for s in settings for part in ("--set", s)]
    more = [part.replace("BROKEN", "'brokenmethod:Broken'") for part in more]
    done = influbench("run", "tiny", *more, cwd=tmp_path, path=tmp_path)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "run none,seed=0: estimator 'brokenmethod:Broken' (package brokenmethod)" in last
    assert "KeyError: 'nothing' (brokenmethod.py:12)" in last
    assert "bug of influbench" not in done.stderr
