"""The arm's benchmark measures every stage, by the clock and in CPU seconds."""

import re

from benchmarks import arm


def test_the_arms_benchmark_prints_clock_and_cpu_seconds_of_every_stage(capsys):
    arm.main(["--preset", "tiny", "--pairs", "4", "--training", "2", "--prompts", "2"])
    rows = re.findall(r"^(\w+) +([\d.]+) s +\d+% +([\d.]+) CPU s$", capsys.readouterr().out, re.M)
    names = [name for name, _, _ in rows]
    assert names[:3] == ["dpo", "generate", "sft"]
    assert names[-1] == "all"
    for column in (1, 2):
        seconds = [float(row[column]) for row in rows]
        assert abs(sum(seconds[:-1]) - seconds[-1]) <= 0.06 * len(seconds)
