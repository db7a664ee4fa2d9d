"""A hundred thousand candidates through ``influbench score``: memory, kill and resume, throughput.

    python -m benchmarks.many_candidates [--count 100000] [--estimator adam_jvp]

Scores one-line candidates with the ``tiny`` student in a process of its own, kills it (SIGKILL)
when a part of the chunks is there, and runs the same command again. Prints the resident memory as
chunks come in, what was kept over the kill, and candidates a second.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from influbench import data
from influbench.data import DataConfig

CHUNK = 512


def main() -> int:
    """Makes the files, runs the command twice, prints what was seen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--estimator", default="adam_jvp")
    parser.add_argument("--kill-at", type=float, default=0.3, help="share of the chunks")
    options = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, options.count)
        command = [sys.executable, "-m", "influbench", "score", "--student", "tiny"]
        command += ["--candidates", "candidates.jsonl", "--reference", "reference.jsonl"]
        command += ["--warmup", "warmup.jsonl"]
        command += ["--estimator", options.estimator, "--chunk-size", str(CHUNK)]
        command += ["--out", "scores.jsonl", "--store", "kept"]
        wanted = -(-options.count // CHUNK)
        first = follow(command, folder, stop_at=int(options.kill_at * wanted))
        print(f"killed with {first} of {wanted} chunks done", flush=True)
        began = time.perf_counter()
        follow(command, folder, stop_at=None)
        seconds = time.perf_counter() - began
        lines = (folder / "scores.jsonl").read_text().splitlines()
        assert len({json.loads(line)["id"] for line in lines}) == options.count
        rest = options.count - first * CHUNK
        print(
            f"resumed: the other {rest} in {seconds:.0f} s with loading, {rest / seconds:.0f} a "
            f"second; {len(lines)} scores in the file"
        )
    return 0


def write(folder: Path, count: int) -> None:
    """Candidates that differ in a number, and a few references."""
    pool = data.load_reference(DataConfig(reference="starter_short"))
    rows = [{"id": e.id, "instruction": e.instruction, "response": e.response} for e in pool]
    for name, part in (("reference", rows[:4]), ("warmup", rows[4:12])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in part))
    with (folder / "candidates.jsonl").open("w") as file:
        for i in range(count):
            row = {"id": f"c{i}", "instruction": f"Count to {i}.", "response": f"1 to {i}, done."}
            file.write(json.dumps(row) + "\n")


def follow(command: Sequence[str], folder: Path, stop_at: int | None) -> int:
    """Runs the command, printing its memory as chunks come in; kills it at ``stop_at`` of them."""
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL, stdout=None)
    seen, shown = 0, -1
    while process.poll() is None:
        time.sleep(0.25)
        # The folder goes when the stage is whole: what was last seen in it then counts.
        seen = len(list(folder.glob("kept/score-*/chunks/scores/*.jsonl"))) or seen
        if seen // 25 > shown:
            shown = seen // 25
            memory = resident(process.pid)
            print(f"    {seen * CHUNK:>7} candidates: {memory / 1e6:6.0f} MB resident", flush=True)
        if stop_at is not None and seen >= stop_at:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return seen
    assert process.returncode == 0
    return seen


def resident(pid: int) -> float:
    """Bytes; 0 for a process that has just ended."""
    try:
        return float(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0.0


if __name__ == "__main__":
    sys.exit(main())
