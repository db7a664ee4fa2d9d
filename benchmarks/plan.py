"""``python -m benchmarks.plan CONFIG RESULTS_OR_STORE [SPEEDS] [KEY=VALUE …]``: beside a run.

Stage by stage, the tokens and seconds of the ledger of a study's results (``results/quickstart``),
of one result file, or of the finished stages in a store, and those that the plan says. A study's
arms are planned one by one, and a stage that several share counts once, as it does in the store.

The speeds are those that ``influbench plan --calibrate`` kept. A ledger's seconds are wall time,
which on a machine that others use is longer; what ``benchmarks.overhead --out`` leaves has CPU
seconds, as a calibration with ``OMP_NUM_THREADS=1`` has too.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from influbench.loop.plan import Task, calibration, lengths, price, tasks
from influbench.loop.reading import load_run

Row = Mapping[str, object]


@dataclass(frozen=True)
class Beside:
    """One stage."""

    stage: str
    planned: float
    """Tokens."""
    measured: float
    seconds: float
    """Planned; NaN where there are no speeds."""
    took: float


def tokens_of(task: Task) -> float:
    """Token positions that the ledger counts for a stage."""
    return task.read + task.learn + task.decoded + (task.prompt if task.who == "judge" else 0)


def measured(ledger: Iterable[Row]) -> dict[str, tuple[float, float]]:
    """Tokens and seconds by stage and label."""
    found: dict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
    for row in ledger:
        key = f"{row['stage']} {row['label']}".strip()
        tokens, seconds = found[key]
        found[key] = (tokens + float(str(row["tokens"])), seconds + float(str(row["seconds"])))
    return found


def ledgers(where: Path) -> dict[str, list[Row]]:
    """Ledgers by the arm that they are of; ``""`` where that is the configuration's own."""
    if where.is_file():
        return {"": _ledger(json.loads(where.read_text(encoding="utf-8")))}
    if files := sorted(where.glob("*,*.json")):
        found = [json.loads(path.read_text(encoding="utf-8")) for path in files]
        return {run["config"]["scoring"]["estimator"]: _ledger(run) for run in found}
    paths = [m.with_name("ledger.jsonl") for m in sorted(where.glob("*/manifest.json"))]
    return {"": [json.loads(line) for path in paths for line in path.read_text().splitlines()]}


def _ledger(run: Mapping[str, Any]) -> list[Row]:
    table: dict[str, Any] = run["ledger"]
    return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]


def beside(
    config: str,
    where: Path,
    speeds: calibration.Speeds | None = None,
    settings: Sequence[str] = (),
) -> list[Beside]:
    """Every stage of the plan that was measured, in order."""
    real: dict[str, tuple[float, float]] = {}
    planned: dict[str, tuple[float, float]] = {}
    for arm, ledger in ledgers(where).items():
        cfg = load_run(config, [*settings, *([f"scoring.estimator={arm}"] if arm else [])])
        work = tasks(cfg, lengths.lengths(cfg.data, cfg.generation))
        costs = (
            [p.seconds for p in price(cfg, work, speeds)] if speeds else [float("nan")] * len(work)
        )
        own: dict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
        for task, seconds in zip(work, costs, strict=True):
            label = task.label.removesuffix(" instructions").removesuffix(" responses")
            key = f"{task.stage} {label}".strip()
            own[key] = (own[key][0] + tokens_of(task), own[key][1] + seconds)
        planned |= own
        real |= measured(ledger)
    return [
        Beside(k, planned[k][0], real[k][0], planned[k][1], real[k][1])
        for k in planned
        if k in real
    ]


def main() -> None:
    """Prints the table."""
    settings = [text for text in sys.argv[1:] if "=" in text and not Path(text).exists()]
    config, where, *more = [text for text in sys.argv[1:] if text not in settings]
    path = Path(more[0] if more else ".influbench/calibration.json")
    speeds = calibration.read(path) if path.is_file() else None
    rows = beside(config, Path(where), speeds, settings)
    columns = ("planned", "measured", "seconds", "took")
    sums = {name: sum(getattr(row, name) for row in rows) for name in columns}
    rows.append(Beside("in all", **sums))
    print(f"{'stage':24} {'tokens: plan':>12} {'run':>8} {'':>5} {'seconds: plan':>14} {'run':>7}")
    for row in rows:
        tokens, seconds = (
            f"{plan / run:.2f}" if run else "-"
            for plan, run in ((row.planned, row.measured), (row.seconds, row.took))
        )
        print(
            f"{row.stage:24} {row.planned:12.0f} {row.measured:8.0f} {tokens:>5} "
            f"{row.seconds:14.1f} {row.took:7.1f} {seconds:>5}"
        )


if __name__ == "__main__":
    main()
