"""The documents: the site builds without a warning, and the tutorials' blocks run as they stand."""

import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from command import influbench

from influbench.files import write_jsonl
from influbench.testing import tiny_examples

ROOT = Path(__file__).parents[2]
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+) ?(\S*)\n(.*?)^```$", re.M | re.S)


def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path / "s")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    made = {path.parent.name for path in (tmp_path / "s" / "estimators").glob("*/index.html")}
    assert {"exact", "first_order", "trak"} <= made
    assert "scoring.estimator" in (tmp_path / "s" / "settings" / "index.html").read_text()


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_every_block_of_a_tutorial_runs(page, tmp_path, monkeypatch):
    """With the tiny model in place of the real one, whose download and passes take minutes."""
    monkeypatch.chdir(tmp_path)
    for name, count in (("mine", 8), ("held_out", 4), ("seen", 8)):
        write_jsonl(tmp_path / f"{name}.jsonl", tiny_examples(name, count))
    blocks = BLOCK.findall(page.read_text())
    assert blocks
    for language, name, text in blocks:
        text = text.replace("smollm2-135m-instruct", "tiny")
        if name:
            (tmp_path / name).write_text(text)
        elif language == "python":
            (tmp_path / "block.py").write_text(text)
            runpy.run_path(str(tmp_path / "block.py"))
        else:
            for line in text.replace("\\\n", " ").splitlines() if language == "sh" else ():
                _, *words = shlex.split(line)
                done = influbench(*words, cwd=tmp_path)
                assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_are_at_most_a_hundred_characters(page):
    """Prose, code and commands; a row of a table and what it is made from cannot be broken."""
    lines = enumerate(page.read_text().splitlines(), 1)
    assert not [n for n, line in lines if len(line) > 100 and not line.startswith(("|", "<!--"))]
