"""What a sweep says of its runs where there is no terminal."""

import io

import pytest
from rich.console import Console

from influbench.executors import Outcome
from influbench.studies.board import SCREEN, Board
from influbench.studies.single import Done


def said(count: int, made: int, tmp_path) -> list[str]:
    out = io.StringIO()
    runs = [f"run{number}" for number in range(count)]
    with Board("study", runs, 1, Console(file=out, width=200)) as board:
        for run in runs:
            board.begin(run)
            done = Done(path=tmp_path, seconds=1.0, made=made, kept=2, cost={})
            board.end(run, Outcome(value=done))
    return out.getvalue().splitlines()


@pytest.mark.parametrize(("count", "lines"), [(SCREEN, SCREEN + 1), (SCREEN + 1, 1), (100, 1)])
def test_cached_runs_have_a_line_each_or_the_summary_alone(tmp_path, count, lines):
    found = said(count, 0, tmp_path)
    assert len(found) == lines
    assert f"{count} runs: {count} cached" in found[-1]


def test_runs_that_were_made_have_a_line_each_however_many(tmp_path):
    assert len(said(100, 1, tmp_path)) == 101
