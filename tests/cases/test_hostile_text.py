"""Ids, names and texts that would act on a terminal are shown as what they are."""

import contextlib
import io
import json
import re
import unicodedata

import pandas as pd
import pytest
from command import influbench

from influbench import terminal
from influbench.cli import main as command_line
from influbench.errors import UserError
from influbench.report import tables
from influbench.terminal.progress import RichProgress

HOSTILE = [
    "\x1b[2J\x1b[31mred",
    "\x1b]0;title\x07",
    "\x9b31m",  # the one-byte form of an escape sequence
    "a\rb",
    "a\x08b\x7f",
    "\u202egnp.exe",
    "\u2066a\u2069",
    "\u200bno width",
    "line\u2028break",
    "\x00",
    "\U000e0041tag",
    "[red]markup[/red]",
    "[/]",
    "[link=http://x]x[/link]",
    "a\\[b",
    ":fire:",
    "a\n1  forged  9.99",
]
INNOCENT = ["naïve café", "日本語", "עברית", "हिन्दी", "👩‍👩‍👧", "a_b-c:d/e", "[0]"]


def bad(text: str) -> list[str]:
    kinds = {"Cc", "Cf", "Zl", "Zp", "Cs"}
    allowed = "\n\u200c\u200d"
    return [c for c in text if unicodedata.category(c) in kinds and c not in allowed]


def printed(*items: object, **settings) -> str:
    out = io.StringIO()
    terminal.console(file=out, width=200, **settings).print(*items)
    return out.getvalue()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_table_shows_what_would_act(name):
    frame = pd.DataFrame({"id": ["first", name, "last"], "score": [3.0, 2.0, 1.0]})
    shown = printed(tables.ranking_table(frame, {}))
    assert not bad(shown)
    row = next(line for line in shown.splitlines() if " 2 " in line and "first" not in line)
    # Whatever stands for the name, it is the name: markup and emoji codes are left alone.
    expected = name.encode("unicode_escape").decode() if bad(name) or "\n" in name else name
    assert expected in row
    plain = printed(tables.ranking_table(frame.assign(id=["a", "b", "c"]), {}))
    assert len(shown.splitlines()) == len(plain.splitlines())


@pytest.mark.parametrize("name", INNOCENT)
def test_every_script_stays_as_it_is(name):
    frame = pd.DataFrame({"id": [name], "score": [1.0]})
    assert name in printed(tables.ranking_table(frame, {}))
    assert terminal.plain(name) == name


@pytest.mark.parametrize("name", HOSTILE)
def test_progress_and_notes_show_what_would_act(name):
    for terminal_there in (True, False):
        out = io.StringIO()
        screen = terminal.console(
            file=out, width=200, force_terminal=terminal_there, color_system=None
        )
        progress = RichProgress(console=screen, every=0.0)
        progress.note(f"note {name}")
        note = out.getvalue()
        assert not bad(note)
        with progress.task(name, 2) as advance:
            advance(1)
        assert name not in out.getvalue() or not bad(name)


def test_an_error_shows_what_would_act(monkeypatch):
    def fail() -> None:
        raise UserError("row 'a\x1b[2J\u202e'")

    monkeypatch.setattr(command_line, "app", fail)
    err = io.StringIO()
    with contextlib.redirect_stderr(err), pytest.raises(SystemExit):
        command_line.main()
    assert err.getvalue() == "influbench: row 'a\\x1b[2J\\u202e'\n"


def test_a_ranking_of_hostile_ids_from_the_command(tmp_path):
    rows = [
        {"id": name, "instruction": f"Say {n}.", "response": "word " * (n + 1)}
        for n, name in enumerate(HOSTILE)
    ]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = influbench(
        "score", "--student", "tiny", "--candidates", "c.jsonl", "--reference", "c.jsonl",
        "--estimator", "length", "--out", "s.jsonl", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not bad(done.stdout)
    assert not bad(done.stderr)
    lines = (tmp_path / "s.jsonl").read_text().split("\n")
    assert [json.loads(line)["id"] for line in lines if line] == HOSTILE


def test_nothing_else_opens_a_console():
    from pathlib import Path

    package = Path(terminal.__file__).parent
    openers = [p for p in package.rglob("*.py") if re.search(r"\bConsole\((?!\):)", p.read_text())]
    assert openers == []
