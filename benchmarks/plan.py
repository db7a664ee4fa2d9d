"""``python -m benchmarks.plan CONFIG RESULT_OR_STORE [SPEEDS]``: a plan beside what was measured.

Stage by stage, the tokens and seconds of a result file's ledger, or of the finished stages in a
store, and those that the plan says. The speeds are those that ``influbench plan --calibrate`` kept.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from influbench.loop.plan import calibration, lengths, price, tasks
from influbench.loop.reading import load_run

GENERATED = ("instructions", "responses")


def measured(ledger: Iterable[Mapping[str, object]]) -> dict[str, tuple[float, float]]:
    """Tokens and seconds by stage and label."""
    found: dict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
    for row in ledger:
        key = f"{row['stage']} {row['label']}".strip()
        tokens, seconds = found[key]
        found[key] = (tokens + float(str(row["tokens"])), seconds + float(str(row["seconds"])))
    return found


def ledger_of(where: Path) -> list[dict[str, object]]:
    """The ledger of a result file, or of all finished stages in a store."""
    if where.is_dir():
        paths = [m.with_name("ledger.jsonl") for m in sorted(where.glob("*/manifest.json"))]
        return [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    table = json.loads(where.read_text(encoding="utf-8"))["ledger"]
    return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]


def beside(config: str, where: Path, speeds: Path) -> list[tuple[str, float, float, float, float]]:
    """Stage; tokens planned and measured; seconds planned and measured."""
    cfg, real = load_run(config), measured(ledger_of(where))
    known = lengths.lengths(cfg.data, cfg.generation)
    found: dict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
    for priced in price(cfg, tasks(cfg, known), calibration.read(speeds)):
        task = priced.task
        label = task.label.removesuffix(" instructions").removesuffix(" responses")
        key = f"{task.stage} {label}".strip()
        tokens = task.read + task.learn + task.decoded
        tokens += task.prompt if task.who == "judge" else 0
        found[key] = (found[key][0] + tokens, found[key][1] + priced.seconds)
    return [(k, found[k][0], real[k][0], found[k][1], real[k][1]) for k in found if k in real]


def main() -> None:
    """Prints the table."""
    speeds = Path(sys.argv[3] if len(sys.argv) > 3 else ".influbench/calibration.json")
    rows = beside(sys.argv[1], Path(sys.argv[2]), speeds)
    a, b, c, d = (sum(column) for column in zip(*(row[1:] for row in rows), strict=True))
    rows.append(("in all", a, b, c, d))
    print(f"{'stage':32} {'tokens: plan':>12} {'run':>8} {'':>5} {'seconds: plan':>14} {'run':>7}")
    for name, tokens, real, seconds, took in rows:
        ratio = f"{tokens / real:.2f}" if real else "-"
        print(f"{name:32} {tokens:12.0f} {real:8.0f} {ratio:>5} {seconds:14.1f} {took:7.1f}")


if __name__ == "__main__":
    main()
