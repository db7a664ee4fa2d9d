"""``python -m benchmarks.overhead PRESET [KEY=VALUE …] [--out FOLDER]``: CPU time outside models.

One run in a store of its own, in this process, whose ledger counts CPU seconds instead of wall
time: what others do on the machine is in neither. Five shares of all CPU seconds since the process
began: passes of models (phases that count any), models read from disk and written to it (phases
``load`` and ``save``), imports (all libraries before the run, which would else be in the first
phase that needs each), the rest of the stages (tokens, records), and what is outside them (digests
of files, settings, results, tables). The last three are the time outside models.

The result file stays in ``FOLDER``, for ``python -m benchmarks.plan``.
"""

from __future__ import annotations

import argparse
import importlib
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from influbench.data import root_verbs
from influbench.store import ledger
from influbench.studies import grid

LIBRARIES = ("datasets", "peft", "transformers.trainer")
"""That stages import when they run; the tagger of root verbs too, where it is installed."""


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
    for library in (*LIBRARIES, *(["textblob.en"] if root_verbs.available() else [])):
        importlib.import_module(library)
    imports = time.process_time()
    setattr(ledger, "time", CPUClock)  # noqa: B010  # a module's attribute
    with tempfile.TemporaryDirectory() as folder:
        root = args.out or Path(folder) / "results"
        told = (text.partition("=") for text in args.settings)
        # By dotted name: a tree would replace a section whole.
        settings = {key: yaml.safe_load(value) for key, _, value in told}
        study = grid.run(args.preset, settings, store=Path(folder) / "store", root=root)
        whole = time.process_time()
        (path,) = study.path.glob("*,*.json")
        table = json.loads(path.read_text(encoding="utf-8"))["ledger"]
        shares = shares_of(table, imports, whole)
    print(f"{whole:.1f} CPU seconds, {torch.get_num_threads()} threads")
    for name, seconds in shares.items():
        print(f"{name:32} {seconds:8.1f} s {100 * seconds / whole:6.1f} %")


def shares_of(table: dict[str, Any], imports: float, whole: float) -> dict[str, float]:
    """CPU seconds by kind; the first five add up to all of them."""
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    passes = ("forward_passes", "backward_passes", "api_calls")
    inside = sum(r["seconds"] for r in rows)
    models = sum(r["seconds"] for r in rows if any(r[p] for p in passes))
    disk = sum(r["seconds"] for r in rows if r["phase"] in ("load", "save"))
    return {
        "passes of models": models,
        "models read and written": disk,
        "imports": imports,
        "the rest of the stages": inside - models - disk,
        "outside stages": whole - imports - inside,
        "outside models": whole - models - disk,
    }


if __name__ == "__main__":
    main()
