"""``python -m benchmarks.overhead PRESET [KEY=VALUE …] [--out FOLDER]``: CPU time outside models.

One run in a store of its own, in this process, whose ledger counts CPU seconds instead of wall
time: what others do on the machine is in neither. Four shares of all CPU seconds since the process
began: passes of models (phases that count any), reading models from disk, the rest of the stages
(tokens, records, saved weights), and what is outside stages (imports, settings, results, tables).

The result file stays in ``FOLDER``, for ``python -m benchmarks.plan``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from influbench.loop.reading import parse_options
from influbench.store import ledger
from influbench.studies import grid


class CPUClock:
    """Stands in for the module ``time`` in the ledger."""

    @staticmethod
    def perf_counter() -> float:
        """CPU seconds of this process, all threads."""
        return time.process_time()


def main() -> None:
    """Runs it and prints the shares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("preset")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    setattr(ledger, "time", CPUClock)  # noqa: B010  # a module's attribute
    with tempfile.TemporaryDirectory() as folder:
        root = args.out or Path(folder) / "results"
        settings = parse_options(args.settings)
        study = grid.run(args.preset, settings, store=Path(folder) / "store", root=root)
        whole = time.process_time()
        (path,) = study.path.glob("*,*.json")
        shares = shares_of(json.loads(path.read_text(encoding="utf-8"))["ledger"], whole)
    print(f"{whole:.1f} CPU seconds, {torch.get_num_threads()} threads")
    for name, seconds in shares.items():
        print(f"{name:32} {seconds:8.1f} s {100 * seconds / whole:6.1f} %")


def shares_of(table: dict[str, Any], whole: float) -> dict[str, float]:
    """CPU seconds by kind; they add up to all of them."""
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    passes = ("forward_passes", "backward_passes", "api_calls")
    inside = sum(r["seconds"] for r in rows)
    models = sum(r["seconds"] for r in rows if any(r[p] for p in passes))
    loads = sum(r["seconds"] for r in rows if r["phase"] == "load")
    return {
        "passes of models": models,
        "reading students": loads,
        "the rest of the stages": inside - models - loads,
        "outside stages": whole - inside,
    }


if __name__ == "__main__":
    main()
