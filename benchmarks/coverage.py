"""How often 95 % intervals over few seeds hold the truth: ours, and a percentile bootstrap.

``python -m benchmarks.coverage``: simulated studies of 2, 3 and 5 seeds. Correlations: each seed
has a true correlation of its own (Fisher's z normal, standard deviation 0.25) and 40 candidates.
Differences: seeds, and 30 prompts that all seeds share, have normal effects; noise of 0.3 on top.
"""

from __future__ import annotations

import numpy as np

from influbench.statistics.estimate import Estimate
from influbench.statistics.seeds import over_seeds, paired_difference

TRIALS = 1000
EFFECTS = ((0.3, 0.1), (0.05, 1.0))
"""Standard deviations over seeds and over prompts."""


def correlations(count: int, rng: np.random.Generator) -> tuple[float, float]:
    """Coverage and mean width of the interval of a mean correlation over ``count`` seeds."""
    truth = float(np.tanh(np.random.default_rng(0).normal(0.55, 0.25, 200_000)).mean())
    hits, widths = 0, []
    for _ in range(TRIALS):
        true = np.tanh(rng.normal(0.55, 0.25, (count, 1)))
        x = rng.normal(size=(count, 40))
        y = true * x + np.sqrt(1 - true**2) * rng.normal(size=x.shape)
        found = [float(np.corrcoef(a, b)[0, 1]) for a, b in zip(x, y, strict=True)]
        low, high = over_seeds([Estimate(value=v, n=40) for v in found], (-1.0, 1.0)).bounds
        hits += low <= truth <= high
        widths.append(high - low)
    return hits / TRIALS, float(np.mean(widths))


def differences(
    count: int, of_seed: float, of_prompt: float, rng: np.random.Generator
) -> tuple[float, float]:
    """Coverage of a difference's interval: ours, and the percentile bootstrap, prompts nested."""
    ours = plain = 0
    for _ in range(TRIALS):
        gaps = of_seed * rng.normal(size=(count, 1)) + of_prompt * rng.normal(size=(1, 30))
        gaps = gaps + 0.3 * rng.normal(size=gaps.shape)
        low, high = paired_difference(gaps, np.zeros_like(gaps), rng, resamples=300).bounds
        ours += low <= 0 <= high
        seeds, prompts = (
            rng.integers(count, size=(300, count)),
            rng.integers(30, size=(300, count, 30)),
        )
        low, high = np.quantile(gaps[seeds[:, :, None], prompts].mean(axis=(1, 2)), [0.025, 0.975])
        plain += low <= 0 <= high
    return ours / TRIALS, plain / TRIALS


def main() -> None:
    """Prints one line a case."""
    for count in (2, 3, 5):
        held, width = correlations(count, np.random.default_rng(count))
        print(f"correlation, {count} seeds: {held:.3f}, mean width {width:.2f}")
        for of_seed, of_prompt in EFFECTS:
            ours, plain = differences(count, of_seed, of_prompt, np.random.default_rng(count))
            print(
                f"difference, {count} seeds, s.d. {of_seed} over seeds, {of_prompt} over prompts: "
                f"{ours:.3f}, percentile bootstrap {plain:.3f}"
            )


if __name__ == "__main__":
    main()
