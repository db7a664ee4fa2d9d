"""Rows packed into one sequence against padded rows: tokens, and seconds in turn.

    python -m benchmarks.packing [--references 32] [--file starter_short] [--rounds 3]

SmolLM2-135M-Instruct in fp32; each way keeps its fastest round. Padded rows read their common
prefix once each, packed ones once a batch.
"""

from __future__ import annotations

import argparse
import dataclasses

import numpy as np
import torch

from benchmarks.oracle import smollm2, timed
from influbench import data
from influbench.data import DataConfig
from influbench.derivatives import gradients
from influbench.store import Meter


def main() -> None:
    """Runs the comparison and prints it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--references", type=int, default=32)
    parser.add_argument("--file", default="starter_short")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    examples = data.load_reference(DataConfig(reference=args.file))[: args.references]
    student = smollm2(data.load_reference(DataConfig())[-8:])
    ways = {"padded": dataclasses.replace(student, packed=False), "packed": student}
    print(f"CPU, {torch.get_num_threads()} threads, torch {torch.__version__}, fp32")
    best = dict.fromkeys(ways, np.inf)
    meter, found = Meter(), {}
    for turn in range(args.rounds):
        for name, way in ways.items():
            with meter.phase(f"{name} {turn}", models=[student.model]):
                found[name], seconds = timed(lambda way=way: gradients.losses(way, examples))
            best[name] = min(best[name], seconds)
    tokens = {row.phase.split()[0]: row.tokens for row in meter.rows()}
    for name, seconds in best.items():
        print(f"{name}: {tokens[name]} tokens, {seconds:.2f} s for {len(examples)} examples")
    ratios = [best["packed"] / best["padded"], tokens["packed"] / tokens["padded"]]
    gap = np.abs(found["packed"] - found["padded"]).max()
    print(f"packed / padded: {ratios[0]:.2f} of the time, {ratios[1]:.2f} of the tokens")
    print(f"largest difference between losses: {gap:.1e} nats")


if __name__ == "__main__":
    main()
