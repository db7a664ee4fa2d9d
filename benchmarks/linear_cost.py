"""Does the cost of the exact influence grow with the number of candidates alone?

    python -m benchmarks.linear_cost [--model tiny] [--counts 64,256,1024] [--references 4]

Scores so many one-line candidates through the scoring stage, as ``influbench score`` does, each
count in a process of its own; CPU seconds a candidate without preparation, and the most memory that
the process held. A machine that does other things moves clock times, and CPU seconds less.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from influbench import data, models, scoring, training
from influbench.data import DataConfig
from influbench.scoring import MethodConfig
from influbench.store import Store
from influbench.training import WarmupConfig

WARMUP = 8


def main() -> None:
    """Measures every count and prints a row for it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--counts", default="64,256,1024")
    parser.add_argument("--references", type=int, default=4)
    args = parser.parse_args()
    rates: list[float] = []
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for count in map(int, args.counts.split(",")):
            told = (args.model, count, args.references)
            cpu, clock, peak = pool.apply(measure, told)
            rates.append(cpu)
            print(
                f"{args.model}, {count:>5} candidates: {cpu * 1e3:9.2f} ms of CPU and "
                f"{clock * 1e3:9.2f} ms a candidate, {peak / 1e6:7.0f} MB at most",
                flush=True,
            )
    print(f"largest over smallest cost a candidate: {max(rates) / min(rates):.3f}")


def measure(model: str, count: int, references: int) -> tuple[float, float, float]:
    """CPU seconds and seconds a candidate, without preparation, and peak bytes of the process."""
    pool = data.load_reference(DataConfig(reference="starter_short"))
    reference, warmup, rest = pool[:references], pool[references:][:WARMUP], pool[-32:]
    candidates = [replace(rest[i % len(rest)], id=f"candidate-{i:06d}") for i in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        how = WarmupConfig(batch_size=4, device="cpu")
        student = store.run(training.WARM_UP, how, warmup, models.resolve(model)).model("student")
        cfg = MethodConfig(estimator="exact", device="cpu")
        spent: list[float] = []
        for part in (candidates[:8], candidates):  # the first pays for loading and preparing
            began = time.process_time()
            entry = store.run(scoring.STAGE, cfg, part, reference, warmup, student)
            spent.append(time.process_time() - began)
        clock = next(row.seconds for row in entry.ledger() if row.phase == "score")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return (spent[1] - spent[0]) / (count - 8), clock / count, float(peak)


if __name__ == "__main__":
    main()
