r"""Our win rates beside the alpaca-eval package's, on the same recorded judgements.

    python benchmarks/parity_alpaca_eval.py JUDGEMENTS.csv --package-python AE_VENV/bin/python \
        [--leaderboard LEADERBOARD.csv] [--gamed DF_GAMED.csv]

JUDGEMENTS.csv has the columns model, prompt_index, baseline_chars, model_chars, preference (1 = the
baseline, 2 = the model). With the hub's table of gamed baselines all three formulas are compared,
else the one that does not use it. The package needs its own environment: see
alpaca_eval_package.py.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from influbench.data.records import Outcome
from influbench.evaluation.length_control import (
    Gamed,
    length_controlled_win_rate,
    read_gamed,
)
from influbench.evaluation.suites import alpaca_eval

ALLOWED = {
    **dict.fromkeys(("win_rate", "standard_error", "discrete_win_rate"), 0.01),
    **dict.fromkeys(("length_only", "difficulty", "official"), 0.05),
}


def ours(rows: pd.DataFrame, gamed: Gamed | None) -> dict[str, float]:
    """The numbers of one model, in percent."""
    wins = np.asarray(rows.preference, dtype=float) - 1
    outcomes = [Outcome(metric="win", item=str(i), value=float(w)) for i, w in enumerate(wins)]
    rate = alpaca_eval.win_rate(outcomes)
    given = (wins, np.asarray(rows.model_chars), np.asarray(rows.baseline_chars))
    controlled = length_controlled_win_rate(*given)
    numbers = {
        "win_rate": rate.value,
        "standard_error": rate.stderr or 0.0,
        "discrete_win_rate": alpaca_eval.discrete_win_rate(outcomes).value,
        "length_only": controlled.value,
        "stderr": controlled.stderr or 0.0,
        "optimum": length_controlled_win_rate(*given, tolerance=1e-9).value,
    }
    if gamed is not None:
        hard = np.array([gamed.by_index[int(i)] for i in np.asarray(rows.prompt_index)])
        numbers["difficulty"] = length_controlled_win_rate(*given, difficulty=hard).value
        numbers["official"] = length_controlled_win_rate(*given, difficulty=hard, gamed=gamed).value
    return numbers


def package(python: str, judgements: Path, gamed: Path | None) -> dict[str, dict[str, float]]:
    """What the package says, from its own environment."""
    script = Path(__file__).with_name("alpaca_eval_package.py")
    command = [python, script, judgements, *([gamed] if gamed else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main() -> int:
    """Prints the comparison; 1 where a number is further off than allowed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("judgements", type=Path)
    parser.add_argument("--package-python", required=True, help="python that has alpaca-eval")
    parser.add_argument("--leaderboard", type=Path, help="CSV with published numbers")
    parser.add_argument("--gamed", type=Path, help="the hub's df_gamed.csv")
    given = parser.parse_args()
    theirs = package(given.package_python, given.judgements, given.gamed)
    gamed = read_gamed(given.gamed) if given.gamed else None
    published: dict[str, float] = {}
    if given.leaderboard:
        board = pd.read_csv(given.leaderboard)
        published = dict(zip(board.model, board.length_controlled_winrate, strict=True))
    worst: dict[str, float] = {}
    for model, rows in pd.read_csv(given.judgements).groupby("model"):
        mine, other = ours(rows, gamed), theirs[str(model)]
        shared = [name for name in ALLOWED if name in other]
        worst = {n: max(worst.get(n, 0.0), abs(mine[n] - other[n])) for n in shared}
        print(f"{model} (ours / the package's)")
        print("   " + ", ".join(f"{n} {mine[n]:.4f} / {other[n]:.4f}" for n in shared))
        last = "official" if gamed else "length_only"
        gap = mine[last] - published.get(str(model), np.nan)
        print(
            f"   length_only: our standard error {mine['stderr']:.2f}, exact optimum "
            f"{mine['optimum']:.4f}; {last} less the published rate: {gap:+.2f}"
        )
    print("largest difference from the package:", {n: float(f"{w:.2g}") for n, w in worst.items()})
    return int(any(gap > ALLOWED[name] for name, gap in worst.items()))


if __name__ == "__main__":
    sys.exit(main())
