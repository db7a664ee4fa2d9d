"""The arm's benchmark measures every stage, by the clock and in CPU seconds."""

import re
import time

import pytest
import torch

from benchmarks import arm, launches
from benchmarks.watched import Watched, covered


def test_the_arms_benchmark_prints_clock_and_cpu_seconds_of_every_stage(capsys):
    arm.main(["--preset", "tiny", "--pairs", "4", "--training", "2", "--prompts", "2"])
    rows = re.findall(r"^(\w+) +([\d.]+) s +\d+% +([\d.]+) CPU s$", capsys.readouterr().out, re.M)
    names = [name for name, _, _ in rows]
    assert names[:3] == ["dpo", "generate", "sft"]
    assert names[-1] == "all"
    for column in (1, 2):
        seconds = [float(row[column]) for row in rows]
        assert abs(sum(seconds[:-1]) - seconds[-1]) <= 0.06 * len(seconds)


def test_with_profile_every_stage_says_what_it_waited_for(capsys):
    told = "--preset tiny --pairs 4 --training 2 --profile --only dpo generate"
    arm.main(told.split())
    told = capsys.readouterr().out
    found = re.findall(
        r"^  (\w+) .*s\n    [\d.]+ s of the clock, ([\d.]+) CPU s \(\d+%\), (\d+) operator calls$",
        told,
        re.M,
    )
    assert [name for name, _, _ in found] == ["dpo", "generate"]
    assert all(float(cpu) > 0 and int(calls) > 100 for _, cpu, calls in found)
    assert re.search(r"^    ours +\d+% influbench\.", told, re.M)


def test_what_is_watched_names_the_function_that_took_the_time():
    def busy() -> None:
        end = time.process_time() + 0.2
        while time.process_time() < end:
            sum(range(1000))

    with Watched() as seen:
        torch.ones(3).add(1)
        busy()
    assert seen.seconds >= seen.busy * 0.9 > 0.1
    assert seen.calls["aten::add"] == 1
    assert seen.inside.most_common(1)[0][0].endswith("busy")


@pytest.mark.parametrize(
    ("spans", "expected"),
    [([], 0), ([(5, 9)], 4), ([(3, 6), (0, 4), (5, 5)], 6), ([(0, 9), (2, 3), (20, 21)], 10)],
)
def test_time_in_which_several_kernels_run_counts_once(spans, expected):
    assert covered(spans) == expected


def test_the_kernels_of_an_arms_steps_are_counted(capsys):
    launches.main(["--model", "tiny", "--layers", "2", "--tries", "1"])
    found = re.findall(r"^(.+?)  +(\d+) kernels +[\d.]+ CPU ms$", capsys.readouterr().out, re.M)
    counted = {name: int(count) for name, count in found}
    assert len(counted) == 17
    by_layer = counted["a step in it, one replay of a graph"] / 2
    assert 30 < by_layer < 60
    assert 0 < counted["a token put there"] < 10
