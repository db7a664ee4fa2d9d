"""Do scores predict training? Short trainings on each method's top, middle and bottom third.

python -m experiments.prediction [--student NAME]
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from influbench.data import load_evaluation
from influbench.evaluation.suites.losses import held_out
from influbench.models import ModelConfig
from influbench.progress import RichProgress
from influbench.report.agreement_tables import metrics_table
from influbench.results import load_study
from influbench.session import Session
from influbench.store import Store
from influbench.studies import prediction
from influbench.studies.prediction import PredictionConfig, Trainings
from influbench.studies.scored_student import (
    ScoringSetup,
    blank_row,
    load_sets,
    publish,
    score_all,
)

STUDENT = "smollm2-135m-instruct"
METHODS = "exact,first_order,gradient_dot,repsim,loss,random,length"
METRICS = (
    "gain_top",
    "gain_middle",
    "gain_bottom",
    "gain_top_minus_bottom",
    "gain_correlation",
    "lds",
)


def main(
    student: Annotated[str, typer.Option(help="hub name, packaged model or folder")] = STUDENT,
    methods: Annotated[str, typer.Option(help="names with commas between")] = METHODS,
    candidates: Annotated[str, typer.Option(help="pairs to judge: a file, or starter")] = "starter",
    count: Annotated[int, typer.Option(help="candidates")] = 36,
    warmup: Annotated[int, typer.Option(help="pairs that the student is warmed up on")] = 32,
    references: Annotated[int, typer.Option(help="size of the reference set")] = 16,
    evaluation: Annotated[int, typer.Option(help="size of the held-out set")] = 24,
    seeds: Annotated[str, typer.Option(help="seeds with commas between")] = "0,1,2",
    bank: Annotated[int, typer.Option(help="trainings on random subsets, for the LDS")] = 0,
    learning_rate: Annotated[float, typer.Option(help="of the short trainings")] = 2e-5,
    name: Annotated[str, typer.Option(help="of the study")] = "prediction",
    store: Annotated[Path, typer.Option(envvar="INFLUBENCH_STORE")] = Path(".influbench"),
    results: Annotated[Path, typer.Option(help="where result files go")] = Path("results"),
) -> None:
    """Scores once, trains on every third with every seed, and writes the gains."""
    setup = ScoringSetup.model_validate(
        {
            "student": ModelConfig(name=student),
            "methods": tuple(methods.split(",")),
            "candidates": candidates,
            "num_candidates": count,
            "num_warmup": warmup,
            "data": {"num_reference": references, "num_evaluation": evaluation},
            "judge": {"kind": "local", "model": student},
        }
    )
    how = PredictionConfig.model_validate(
        {"sft": {"learning_rate": learning_rate, "batch_size": 4}, "bank": bank}
    )
    session = Session(Store(store, RichProgress()))
    sets = load_sets(setup, 0)
    scored = score_all(setup, sets, sets.candidates, 0, session)
    trainings = Trainings(
        cfg=how,
        candidates={example.id: example for example in sets.candidates},
        held_out=held_out(load_evaluation(setup.data)),
        student=scored.student,
        session=session,
    )
    banked = prediction.bank(trainings, 0)
    rows = []
    for method in scored.scores:
        found = prediction.predict(
            scored.values(method), trainings, list(map(int, seeds.split(",")))
        )
        base = blank_row(name, "seed=0", method, 0)
        rows += prediction.result_rows(scored.values(method), found, banked, base)
    groups = {example.id: example.group for example in sets.candidates}
    config = {
        **setup.model_dump(mode="json"),
        "prediction": how.model_dump(mode="json"),
        "seeds": seeds,
    }
    publish(results, name, 0, config, scored, rows, groups)
    Console().print(metrics_table(load_study(name, results), METRICS))


if __name__ == "__main__":
    typer.run(main)
