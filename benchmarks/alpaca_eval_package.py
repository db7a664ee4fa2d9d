"""Prints what the alpaca-eval package computes for a CSV of judgements, as JSON.

Runs in an environment of its own (``pip install alpaca_eval==0.6.6 'setuptools<81'``), without
influbench. The package downloads ``df_gamed.csv`` even for the formula that does not use it: where
no such file is given, that formula alone is run, with a stand-in of zeros.

    python benchmarks/alpaca_eval_package.py JUDGEMENTS.csv [DF_GAMED.csv]
"""

import json
import sys
import tempfile
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")

import pandas as pd  # noqa: E402
from alpaca_eval.metrics import glm_winrate  # noqa: E402  # pyright: ignore[reportMissingImports]


def stand_in(table: pd.DataFrame) -> Path:
    """A ``df_gamed.csv`` with the right columns and nothing in it."""
    count = int(table.prompt_index.max()) + 1
    path = Path(tempfile.mkdtemp()) / "df_gamed.csv"
    pd.DataFrame(
        {
            "model": "none",
            "preference": 0.5,
            "index": range(count),
            "std_delta_len": 0.0,
            "instruction_difficulty": 0.0,
            "not_gamed_baseline": False,
        }
    ).to_csv(path, index=False)
    return path


PLAIN = ("win_rate", "standard_error", "discrete_win_rate")
FORMULAS = {
    "length_only": "length_controlled_minimal",
    "difficulty": "length_controlled_noreg",
    "official": "length_controlled_v1",
}


def main(source: str, gamed: str | None = None) -> None:
    """Win rates of every model in the CSV (model, prompt_index, two lengths, preference)."""
    table = pd.read_csv(source)
    path = gamed or stand_in(table)
    formulas = list(FORMULAS) if gamed else ["length_only"]
    glm_winrate.hf_hub_download = lambda **_: str(path)
    rates = {}
    for model, rows in table.groupby("model"):
        annotations = pd.DataFrame(
            {
                "preference": rows.preference.to_numpy(),
                "index": rows.prompt_index.to_numpy(),
                "output_1": ["x" * int(n) for n in rows.baseline_chars],
                "output_2": ["x" * int(n) for n in rows.model_chars],
                "generator_1": "baseline",
                "generator_2": model,
                "annotator": "recorded",
            }
        )
        rates[model] = {}
        for formula in formulas:
            found = glm_winrate.get_length_controlled_winrate(
                annotations,
                glm_name=FORMULAS[formula],
                save_weights_dir=None,
                is_warn_extreme_changes=False,
            )
            rates[model] |= {n: float(found[n]) for n in PLAIN}
            rates[model][formula] = float(found["length_controlled_winrate"])
    print(json.dumps(rates))


if __name__ == "__main__":
    main(*sys.argv[1:])
