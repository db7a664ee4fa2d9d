"""One sweep of the tiny model on every executor: the same records, and what each costs.

    python -m benchmarks.executors [--arms 4] [--seeds 3] [--workers 2] [--only local,ray]

Each executor sweeps into a store of its own, in a fresh process with one thread a worker. Records
are compared byte for byte with those of the first. Then the first sweep is given again, and again
with one arm more, and the stages that are made are counted. Ratios are of wall-clock times and hold
every start: of Python, torch, Ray.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ARMS = ("exact", "random", "length", "loss", "perplexity")
EXECUTORS = {
    "local": (),
    "pool": ("--executor", "pool"),
    "slurm": ("--executor", "slurm", "--slurm", "cluster=local"),
    "ray": ("--executor", "ray"),
}
MADE = re.compile(r"\((\d+) stages made")


def main() -> None:
    """Runs the comparison and prints it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--arms", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", default=",".join(EXECUTORS))
    args = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {args.arms} arms x {args.seeds}")
    with tempfile.TemporaryDirectory() as root:
        times: dict[str, float] = {}
        seen: dict[str, dict[str, str]] = {}
        for kind in args.only.split(","):
            folder = Path(root) / kind
            folder.mkdir()
            write_study(folder, args.arms, args.seeds)
            more = () if kind == "local" else (*EXECUTORS[kind], "--jobs", str(args.workers))
            times[kind], said = sweep(folder, more)
            seen[kind] = records(folder)
            first = next(iter(seen))
            same = sum(seen[kind].get(name) == found for name, found in seen[first].items())
            print(
                f"{kind}: {times[kind]:.1f} s, {times[kind] / times[first]:.2f} of {first}; "
                f"{made(said)} stages made; "
                f"{same} of {len(seen[first])} record files identical, {len(seen[kind])} here; "
                f"in stages {inside(folder):.1f} s",
                flush=True,
            )
        folder = Path(root) / next(iter(seen))
        before = len(list(folder.glob(".influbench/*/manifest.json")))
        took, said = sweep(folder, ())
        print(
            f"again: {took:.1f} s, {made(said)} stages made, {said.count(': cached')} runs cached"
        )
        write_study(folder, args.arms + 1, args.seeds)
        took, said = sweep(folder, ())
        after = len(list(folder.glob(".influbench/*/manifest.json")))
        print(
            f"one arm more: {took:.1f} s, {made(said)} stages made, {before} of {after} kept, "
            f"{said.count(': cached')} runs cached"
        )


def write_study(folder: Path, arms: int, seeds: int) -> None:
    """The study of so many arms and seeds."""
    grid = {"scoring.estimator": list(ARMS[:arms]), "seed": list(range(seeds))}
    study = {
        "name": "executors",
        "question": "Does where it runs change a record?",
        "base": "tiny",
        "set": {"scoring.compare": ["exact", "random"]},
        "grid": grid,
    }
    (folder / "study.yaml").write_text(json.dumps(study))


def sweep(folder: Path, more: tuple[str, ...]) -> tuple[float, str]:
    """Seconds of one sweep, and what it said."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "influbench", "sweep", "study.yaml", *more],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return time.perf_counter() - began, done.stderr


def records(folder: Path) -> dict[str, str]:
    """Digest of every record file of the store, by entry."""
    store = folder / ".influbench"
    return {
        str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in store.glob("[!.]*/*.jsonl")
        if path.name != "ledger.jsonl"
    }


def made(said: str) -> int:
    """How many stages were run."""
    return sum(int(found[1]) for found in MADE.finditer(said))


def inside(folder: Path) -> float:
    """Seconds that the stages themselves took, by the ledger."""
    return sum(
        row["seconds"]
        for path in folder.glob(".influbench/*/manifest.json")
        for row in json.loads(path.read_text())["ledger"]
    )


if __name__ == "__main__":
    main()
