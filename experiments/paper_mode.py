"""What does each quirk of the released code do to the ranking, the signs and the pairs?

python -m experiments.paper_mode [--candidates 24] [--references 16]
"""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from influbench import models, paper_mode, pipeline, presets, result_file, scoring
from influbench.paper_mode import Variant
from influbench.progress import RichProgress
from influbench.provenance import provenance
from influbench.records import ResultRow, Score
from influbench.result_file import RunResult
from influbench.results import cost_rows
from influbench.scored_student import blank_row
from influbench.store import Entry, Store

STUDY = "paper_mode"
UNITS = {"pairs": "pairs", "same_pairs": "pairs"}


def main(
    preset: Annotated[
        str, typer.Option(help="who writes candidates, and the student")
    ] = "quickstart",
    candidates: Annotated[int, typer.Option(help="in groups as the preset has them")] = 24,
    references: Annotated[int, typer.Option(help="size of the reference set")] = 16,
    seed: Annotated[int, typer.Option(help="of candidates and warm-up")] = 0,
    store: Annotated[Path, typer.Option(envvar="INFLUBENCH_STORE")] = Path(".influbench"),
    results: Annotated[Path, typer.Option(help="where result files go")] = Path("results"),
) -> None:
    """Scores the same candidates with each quirk, and writes what it changes."""
    cfg = presets.load_run(
        preset, [f"seed={seed}", f"data.num_reference={references}", "scoring.estimator=exact"]
    )
    loop = pipeline.Loop(cfg, Store(store, RichProgress()), pipeline.check(cfg))
    teacher, student = (models.resolve(m.name, m.revision) for m in (cfg.teacher, cfg.student))
    warmup = loop.generate(teacher, cfg.sizes.warmup, "round1-warmup")
    written = loop.generate(teacher, cfg.sizes.candidates, "round1-candidates")[:candidates]
    warmed = loop.warm_up(student, warmup)

    def score(variant: Variant) -> Entry:
        data = (variant.examples(written), loop.sets.reference, [w.example() for w in warmup])
        method = variant.method(seed=seed, device=cfg.student.device)
        return loop.do(scoring.STAGE, method, *data, warmed, label=variant.name)

    entries = {v.name: score(v) for v in (paper_mode.CORRECTED, *paper_mode.QUIRKS, paper_mode.ALL)}
    scores = {name: entry.records("scores", Score) for name, entry in entries.items()}
    rows: list[ResultRow] = []
    table = Table(
        "quirk", *(f.name for f in dataclasses.fields(paper_mode.Effect)), "weights_moved"
    )
    for name, entry in entries.items():
        found = paper_mode.effect(written, scores["corrected"], scores[name])
        facts = {k: v for k, v in entry.meta["diagnostics"].items() if k == "weights_moved"}
        blank = blank_row(STUDY, f"seed={seed}", name, seed)
        numbers = {**dataclasses.asdict(found), **facts}
        for metric, value in numbers.items():
            row = dataclasses.replace(blank, metric=metric, value=float(value), n=len(written))
            rows.append(dataclasses.replace(row, unit=UNITS.get(metric, "")))
        rows += cost_rows([r for r in entry.ledger() if r.stage == "score"], blank)
        table.add_row(name, *(f"{value:.4g}" for value in numbers.values()))
    Console(width=140).print(table)
    result = RunResult(
        config=cfg.model_dump(mode="json"),
        provenance=provenance(
            datetime.datetime.now(datetime.UTC), device="cpu", threads=torch.get_num_threads()
        ),
        rows=rows,
        ledger=list(loop.ledger.values()),
        scores=scores,
        groups={c.id: c.group for c in written},
    )
    result_file.write(results, STUDY, f"seed={seed}", result)


if __name__ == "__main__":
    typer.run(main)
