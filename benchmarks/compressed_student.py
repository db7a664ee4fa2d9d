"""What rounding costs a model, and what a student of it has to learn: held-out loss by bits.

``python -m benchmarks.compressed_student`` measures the packaged model on the starter data's
held-out pairs, whole and with its linear layers rounded to 4, 3 and 2 bits.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from influbench import data, models
from influbench.data import DataConfig
from influbench.derivatives.gradients import losses
from influbench.evaluation.suites.losses import held_out
from influbench.student import load_student


def main() -> None:
    """Prints a line a model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 3, 2])
    parser.add_argument("--pairs", type=int, default=64)
    told = parser.parse_args()
    pairs = held_out(data.load_evaluation(DataConfig(num_evaluation=told.pairs)))
    for name in [told.model, *(f"{told.model}:bits={bits}" for bits in told.bits)]:
        began = time.perf_counter()
        ref = models.resolve(name)
        made = time.perf_counter() - began
        found = np.array(losses(load_student(ref), pairs))
        spread = found.std(ddof=1) / len(found) ** 0.5
        print(
            f"{name:32} {found.mean():.3f} ± {spread:.3f} nats a token over {len(found)} pairs; "
            f"digest {ref.digest[:12]}, found or made in {made:.1f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
