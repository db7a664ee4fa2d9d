"""Our win rates beside the alpaca-eval package's, on the same recorded judgements.

    python benchmarks/parity_alpaca_eval.py JUDGEMENTS.csv --package-python AE_VENV/bin/python \
        [--leaderboard LEADERBOARD.csv]

JUDGEMENTS.csv has the columns model, prompt_index, baseline_chars, model_chars, preference (1 = the
baseline, 2 = the model). The package needs an environment of its own: see alpaca_eval_package.py.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from influbench.evaluation import alpaca_eval
from influbench.evaluation.length_control import length_controlled_win_rate
from influbench.records import Outcome

ALLOWED = {"win_rate": 0.01, "standard_error": 0.01, "discrete_win_rate": 0.01}
ALLOWED["length_controlled_winrate"] = 0.05


def ours(rows: pd.DataFrame) -> dict[str, float]:
    """The numbers of one model under the package's names, in percent."""
    wins = rows.preference.to_numpy() - 1
    outcomes = [Outcome(metric="win", item=str(i), value=float(w)) for i, w in enumerate(wins)]
    rate = alpaca_eval.win_rate(outcomes)
    lengths = (rows.model_chars.to_numpy(), rows.baseline_chars.to_numpy())
    controlled = length_controlled_win_rate(wins, *lengths)
    exact = length_controlled_win_rate(wins, *lengths, tolerance=1e-9)
    return {
        "win_rate": rate.value,
        "standard_error": rate.stderr or 0.0,
        "discrete_win_rate": alpaca_eval.discrete_win_rate(outcomes).value,
        "length_controlled_winrate": controlled.value,
        "lc_stderr": controlled.stderr or 0.0,
        "lc_optimum": exact.value,
    }


def main() -> int:
    """Prints the comparison; 1 where a number is further off than allowed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("judgements", type=Path)
    parser.add_argument("--package-python", required=True, help="python that has alpaca-eval")
    parser.add_argument("--leaderboard", type=Path, help="CSV with published numbers")
    given = parser.parse_args()
    script = Path(__file__).with_name("alpaca_eval_package.py")
    done = subprocess.run(
        [given.package_python, script, given.judgements], capture_output=True, text=True, check=True
    )
    package: dict[str, dict[str, float]] = json.loads(done.stdout)
    published = None
    if given.leaderboard:
        published = pd.read_csv(given.leaderboard).set_index("model").length_controlled_winrate
    worst = dict.fromkeys(ALLOWED, 0.0)
    print(
        "model | win rate ours/package | SE | discrete | LC ours/package | our LC SE, optimum | gap"
    )
    for model, rows in pd.read_csv(given.judgements).groupby("model"):
        mine, theirs = ours(rows), package[str(model)]
        worst = {n: max(w, abs(mine[n] - theirs[n])) for n, w in worst.items()}
        gap = np.nan if published is None else mine["length_controlled_winrate"] - published[model]
        print(
            f"{model} | "
            + " | ".join(f"{mine[n]:.4f}/{theirs[n]:.4f}" for n in ALLOWED)
            + f" | {mine['lc_stderr']:.2f}, {mine['lc_optimum']:.4f} | {gap:+.2f}"
        )
    print("gap: to the published length-controlled rate, which also uses the hub's table")
    print("largest difference from the package:", {n: round(w, 6) for n, w in worst.items()})
    return int(any(worst[name] > limit for name, limit in ALLOWED.items()))


if __name__ == "__main__":
    sys.exit(main())
