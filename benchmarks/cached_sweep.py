"""``python -m benchmarks.cached_sweep [--runs 100] [--folder F]``: a sweep with nothing to do.

Runs of ``tiny`` whose settings differ in how many two-turn questions lie between two safe points,
which costs little to make: whole runs of the loop of 25 stages each, most of them shared. The sweep
is given once to make them and once more; CPU seconds of the second are printed, and of a sweep of
one of its runs, which is what starting costs. A folder that has them already is not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    """Makes the runs and prints what they cost the second time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--folder", type=Path, default=None)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = args.folder or Path(made)
        sizes = list(range(1, args.runs // 2 + 1))
        study = {
            "name": "hundred",
            "question": "How long does a sweep take that has nothing to do?",
            "base": "tiny",
            "set": {"scoring.compare": ["exact", "random"]},
            "grid": {
                "scoring.estimator": ["random", "length"],
                "evaluation.turns.questions_per_chunk": sizes,
            },
        }
        (folder / "study.yaml").write_text(json.dumps(study))
        sweep(folder)
        one = sweep(folder, "--only", "random,seed=0,evaluation.turns.questions_per_chunk=1")
        cpu, wall, lines = sweep(folder)
        print(f"load {os.getloadavg()[0]:.1f}")
        print(f"{2 * len(sizes)} cached runs: {cpu:.1f} CPU s, {wall:.1f} s, {lines} lines said")
        print(
            f"one of them: {one[0]:.1f} CPU s; a run more costs {marginal(cpu, one[0], sizes)} ms"
        )


def marginal(cpu: float, one: float, sizes: list[int]) -> int:
    """CPU milliseconds of a cached run more."""
    return round(1000 * (cpu - one) / (2 * len(sizes) - 1))


def sweep(folder: Path, *more: str) -> tuple[float, float, int]:
    """CPU seconds, wall seconds, and lines on stderr of one sweep."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "influbench", "sweep", "study.yaml", *more],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, time.perf_counter() - began, len(done.stderr.splitlines())


if __name__ == "__main__":
    main()
