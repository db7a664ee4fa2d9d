"""Do the estimators find planted bad candidates? AUC by kind, next to what each method costs.

python -m experiments.planted [--student NAME]
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console

from influbench.files import digest
from influbench.models import ModelConfig
from influbench.progress import RichProgress
from influbench.report.agreement_tables import metrics_table
from influbench.results import load_study
from influbench.session import Session
from influbench.store import Store
from influbench.studies import planted
from influbench.studies.scored_student import (
    ScoringSetup,
    blank_row,
    load_sets,
    publish,
    score_all,
)

STUDENT = "smollm2-135m-instruct"
METHODS = "first_order,gradient_dot,repsim,embedding,bm25,loss,ifd,random,length"


def main(
    student: Annotated[str, typer.Option(help="hub name, packaged model or folder")] = STUDENT,
    methods: Annotated[str, typer.Option(help="names with commas between")] = METHODS,
    candidates: Annotated[str, typer.Option(help="clean pairs: a file, or starter")] = "starter",
    count: Annotated[int, typer.Option(help="clean examples that bad ones are made of")] = 64,
    warmup: Annotated[int, typer.Option(help="pairs that the student is warmed up on")] = 32,
    references: Annotated[int, typer.Option(help="size of the reference set")] = 16,
    seeds: Annotated[str, typer.Option(help="seeds with commas between")] = "0",
    name: Annotated[str, typer.Option(help="of the study")] = "planted",
    store: Annotated[Path, typer.Option(envvar="INFLUBENCH_STORE")] = Path(".influbench"),
    results: Annotated[Path, typer.Option(help="where result files go")] = Path("results"),
) -> None:
    """Plants bad candidates, lets every method score them, and writes what it found."""
    setup = ScoringSetup.model_validate(
        {
            "student": ModelConfig(name=student),
            "methods": tuple(methods.split(",")),
            "candidates": candidates,
            "num_candidates": count,
            "num_warmup": warmup,
            "data": {"num_reference": references},
            "judge": {"kind": "local", "model": student},
        }
    )
    session = Session(Store(store, RichProgress()))
    for seed in map(int, seeds.split(",")):
        sets = load_sets(setup, seed)
        made = planted.plant(sets.candidates, seed)
        scored = score_all(setup, sets, made.examples, seed, session.part())
        rows = []
        for method in scored.scores:
            # The same draws for every method: differences between rows are not Monte Carlo.
            rng = np.random.default_rng(int(digest(f"planted:{seed}"), 16))
            found = planted.detect(scored.values(method), made.pairs, rng)
            rows += planted.result_rows(found, blank_row(name, f"seed={seed}", method, seed))
        groups = {example.id: example.group for example in made.examples}
        publish(results, name, seed, setup.model_dump(mode="json"), scored, rows, groups)
    kinds = ["auc", *(f"auc_{kind}" for kind in planted.KINDS), "paired"]
    Console().print(metrics_table(load_study(name, results), kinds))


if __name__ == "__main__":
    typer.run(main)
