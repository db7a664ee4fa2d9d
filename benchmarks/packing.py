"""Rows packed into one sequence against padded rows: tokens, and seconds in turn.

    python -m benchmarks.packing [--references 32] [--file starter_short] [--rounds 3] [--gradient]

SmolLM2-135M-Instruct in fp32; each way keeps its fastest round, by the clock and by the processor.
Padded rows read their common prefix once each, packed ones once a batch. ``--gradient``: of the
mean loss, instead of losses.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence

import numpy as np
import torch

from benchmarks.oracle import smollm2, timed
from influbench import data
from influbench.data import DataConfig
from influbench.data.records import Example
from influbench.derivatives import gradients
from influbench.store import Meter
from influbench.student import LanguageStudent


def main() -> None:
    """Runs the comparison and prints it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--references", type=int, default=32)
    parser.add_argument("--file", default="starter_short")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gradient", action="store_true")
    args = parser.parse_args()
    examples = data.load_reference(DataConfig(reference=args.file))[: args.references]
    student = smollm2(data.load_reference(DataConfig())[-8:])
    ways = {"padded": dataclasses.replace(student, packed=False), "packed": student}
    print(f"CPU, {torch.get_num_threads()} threads, torch {torch.__version__}, fp32")
    best = dict.fromkeys(ways, (np.inf, np.inf))
    meter, found = Meter(), {}
    for turn in range(args.rounds):
        for name, way in ways.items():
            began = time.process_time()
            with meter.phase(f"{name} {turn}", models=[student.model]):
                found[name], seconds = timed(lambda way=way: _of(way, examples, args.gradient))
            best[name] = tuple(np.minimum(best[name], (seconds, time.process_time() - began)))
    tokens = {row.phase.split()[0]: row.tokens for row in meter.rows()}
    for name, (clock, cpu) in best.items():
        took = f"{clock:.2f} s, {cpu:.2f} CPU s"
        print(f"{name}: {tokens[name]} tokens, {took} for {len(examples)} examples")
    ratios = [best["packed"][at] / best["padded"][at] for at in (0, 1)]
    print(
        f"packed / padded: {ratios[0]:.2f} of the clock, {ratios[1]:.2f} of the processor, "
        f"{tokens['packed'] / tokens['padded']:.2f} of the tokens"
    )
    gap = found["packed"] - found["padded"]
    if args.gradient:
        relative = np.linalg.norm(gap) / np.linalg.norm(found["padded"])
        print(f"relative difference of the gradients: {relative:.1e}")
    else:
        print(f"largest difference between losses: {np.abs(gap).max():.1e} nats")


def _of(student: LanguageStudent, examples: Sequence[Example], gradient: bool) -> np.ndarray:
    """Losses, shape [example]; or the gradient of their mean, shape [parameter]."""
    if not gradient:
        return gradients.losses(student, examples)
    parts = gradients.mean_gradient(student, [*student.model.parameters()], examples)
    return torch.cat([part.flatten() for part in parts]).numpy()


if __name__ == "__main__":
    main()
