"""What a run of ``tiny`` gives, written down: a refactor changes no number.

``python tests/golden/record_tiny.py`` runs the preset in a folder of its own and writes
``tiny.json``: key and version of every stage, every score, every result row. It is run again only
where a change means to change them, in the same commit, which says why.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

WRITTEN = Path(__file__).with_name("tiny.json")
BOUNDS = {"": "value", ":low": "low", ":high": "high"}
UNSTEADY = ("seconds", "bytes")
"""Metrics that name these differ from run to run."""


def command(folder: Path) -> list[str]:
    """What ``influbench`` is told to run ``tiny`` under ``folder``."""
    return ["run", "tiny", "--store", f"{folder}/store", "--results", f"{folder}/results"]


def observed(folder: Path) -> dict[str, Any]:
    """Stages, scores and rows that the command left under ``folder``."""
    stages: dict[str, Any] = {}
    for manifest in sorted((folder / "store").glob("*/manifest.json")):
        raw = json.loads(manifest.read_text())
        name = f"{raw['stage']} {raw['label']}".strip()
        stages[name] = {"key": raw["key"], "version": raw["version"]}
    (file,) = (folder / "results" / "tiny").glob("*.json")
    result = json.loads(file.read_text())
    columns = result["rows"]["columns"]
    rows = [dict(zip(columns, row, strict=True)) for row in result["rows"]["data"]]
    return {
        "stages": stages,
        "scores": {
            method: {row[0]: row[1] for row in table["data"]}
            for method, table in result["scores"].items()
        },
        "rows": {
            f"{row['estimator']} {row['metric']}{end}": row[column]
            for row in rows
            for end, column in BOUNDS.items()
            if row[column] is not None and not any(word in row["metric"] for word in UNSTEADY)
        },
    }


def main() -> None:
    """Writes ``tiny.json`` and says what changed."""
    before = json.loads(WRITTEN.read_text()) if WRITTEN.is_file() else {}
    threads = {"OMP_NUM_THREADS": "1"}  # a sum over two threads has other last bits
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "influbench", *command(Path(folder))]
        subprocess.run(words, check=True, env={**os.environ, **threads})
        now = observed(Path(folder))
    WRITTEN.write_text(json.dumps(now, indent=1, sort_keys=True) + "\n")
    for part, found in now.items():
        old = before.get(part, {})
        changed = sorted(k for k in {*old, *found} if old.get(k) != found.get(k))
        sys.stdout.write(f"{part}: {len(found)}, changed: {', '.join(changed) or 'none'}\n")


if __name__ == "__main__":
    main()
