"""What does each quirk of the released code do to the ranking, the signs and the pairs?

python -m experiments.paper_mode [--candidates 32] [--references 32]

The quirks that touch the scores: one row each. The one that touches the teacher only, DPO without
the chat template that it is sampled with: how far the same pairs then move the teacher apart under
the prompt that it is sampled with.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch.nn import functional

from influbench import models, preferences, scoring
from influbench.loop import pipeline
from influbench.loop import reading as presets
from influbench.preferences import PreferenceConfig
from influbench.progress import RichProgress
from influbench.records import ModelRef, Pair, ResultRow, Score
from influbench.results import cost_rows, result_file
from influbench.results.provenance import provenance
from influbench.results.result_file import RunResult
from influbench.session import Session
from influbench.store import Entry, Store
from influbench.studies import paper_mode
from influbench.studies.paper_mode import Variant
from influbench.studies.scored_student import blank_row
from influbench.training import dpo
from influbench.training.dpo import DPOStageConfig

STUDY = "paper_mode"
UNITS = {"pairs": "pairs", "same_pairs": "pairs"}
BEST_WORST = PreferenceConfig(rule="best_worst")
LENGTH = 8192
"""Of the teacher's context: nothing is cut."""


def main(
    config: Annotated[
        str, typer.Option(help="preset or file: who writes candidates, and the student")
    ] = "experiments/smol_candidates.yaml",
    candidates: Annotated[int, typer.Option(help="the first so many that the teacher wrote")] = 32,
    references: Annotated[int, typer.Option(help="size of the reference set")] = 32,
    seed: Annotated[int, typer.Option(help="of candidates and warm-up")] = 0,
    store: Annotated[Path, typer.Option(envvar="INFLUBENCH_STORE")] = Path(".influbench"),
    results: Annotated[Path, typer.Option(help="where result files go")] = Path("results"),
) -> None:
    """Scores the same candidates with each quirk, and writes what it changes."""
    cfg = presets.load_run(config, [f"seed={seed}", f"data.num_reference={references}"])
    loop = pipeline.Loop(cfg, Session(Store(store, RichProgress())), pipeline.check(cfg))
    teacher, student = (models.resolve(m.name, m.revision) for m in (cfg.teacher, cfg.student))
    warmup = loop.generate(teacher, cfg.sizes.warmup, "round1-warmup")
    written = loop.generate(teacher, cfg.sizes.candidates, "round1-candidates")[:candidates]
    warmed = loop.warm_up(student, warmup)

    def score(variant: Variant) -> Entry:
        data = (variant.examples(written), loop.sets.reference, [w.example() for w in warmup])
        method = variant.method(seed=seed, device=cfg.device)
        return loop.session.run(scoring.STAGE, method, *data, warmed, label=variant.name)

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
    pairs = preferences.build_pairs(BEST_WORST, written, scores["corrected"])
    for name, margin in teacher_margins(loop, teacher, pairs).items():
        blank = blank_row(STUDY, f"seed={seed}", name, seed)
        row = dataclasses.replace(blank, metric="teacher_margin", value=margin, n=len(pairs))
        rows.append(dataclasses.replace(row, unit="nats"))
        Console().print(f"{name}: the pairs move apart by {margin:.4f} nats as sampled")
    result = RunResult(
        config=cfg.model_dump(mode="json"),
        provenance=provenance(
            datetime.datetime.now(datetime.UTC),
            device=models.device_in_words(cfg.device),
            threads=torch.get_num_threads(),
        ),
        rows=rows,
        ledger=loop.session.ledger,
        scores=scores,
        groups={c.id: c.group for c in written},
    )
    result_file.write(results, STUDY, f"seed={seed}", result)


def teacher_margins(
    loop: pipeline.Loop, teacher: ModelRef, pairs: Sequence[Pair]
) -> dict[str, float]:
    """How far DPO on the same pairs moves chosen and rejected apart, with and without template.

    Mean over pairs of the change of log p(chosen) - log p(rejected), in nats, given the prompt that
    the teacher is sampled with.
    """
    before = margins(teacher, pairs)
    found: dict[str, float] = {}
    for name, bare in (("dpo_as_sampled", False), ("no_chat_template_in_dpo", True)):
        told = loop.cfg.dpo.model_copy(update={"no_chat_template": bare})
        cfg = told.into(DPOStageConfig, seed=loop.cfg.seed, device=loop.cfg.device)
        taught = loop.session.run(dpo.DPO, cfg, pairs, teacher, label=name).model("teacher")
        found[name] = float(np.mean(margins(taught, pairs) - before))
    return found


@torch.no_grad()
def margins(teacher: ModelRef, pairs: Sequence[Pair]) -> np.ndarray:
    """Log p(chosen) - log p(rejected) of each pair, shape [pair], nats."""
    loaded = models.load(teacher, device="cpu")

    def log_probability(prompt: list[int], completion: list[int]) -> float:
        ids = torch.tensor([[*prompt, *completion]])
        logits = loaded.model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
        return -float(functional.cross_entropy(logits, ids[0, len(prompt) :], reduction="sum"))

    rows = [dpo.tokenise(loaded.tokenizer, pair, LENGTH) for pair in pairs]
    return np.array(
        [log_probability(r.prompt, r.chosen) - log_probability(r.prompt, r.rejected) for r in rows]
    )


if __name__ == "__main__":
    typer.run(main)
