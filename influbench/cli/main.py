"""The command line: parse, call, print. Exit code 2 for the user's mistake, 1 for ours."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

# Two idle worker threads that spin between matrix products starve each other on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import typer

from influbench import terminal
from influbench.cli import evaluation as cli_evaluation
from influbench.cli import score as cli_score
from influbench.cli.options import RESULTS, STORE, Results, Seed, Set, StoreRoot
from influbench.errors import UserError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        terminal.console().print(f"influbench {version('influbench')}", highlight=False)
        raise typer.Exit


@app.callback()
def common(
    show_version: Annotated[
        bool,
        typer.Option("--version", help="print the version", callback=_version, is_eager=True),
    ] = False,
) -> None:
    """Which way of measuring 'this training example helps my student' is worth its price?"""


@app.command()
def run(
    config: Annotated[str, typer.Argument(metavar="PRESET_OR_FILE")],
    overrides: Set = None,
    seed: Seed = None,
    store: StoreRoot = STORE,
    results: Results = RESULTS,
) -> None:
    """One run of the loop: prints the table, writes results."""
    from influbench.loop.reading import load_run
    from influbench.studies.grid import run_all
    from influbench.studies.study_file import one_run

    given = [*(overrides or []), *([] if seed is None else [f"seed={seed}"])]
    study = one_run(load_run(config, given))
    run_all(study, store, results)
    _show(results / study.name)


@app.command()
def sweep(
    study: Annotated[str, typer.Argument(metavar="STUDY.yaml")],
    overrides: Set = None,
    store: StoreRoot = STORE,
    results: Results = RESULTS,
) -> None:
    """A study: all runs of its grid, shared stages once; run it again to resume."""
    from influbench.studies import kind
    from influbench.studies.grid import run_all
    from influbench.studies.study_file import load_study

    loaded = load_study(study, overrides or [])
    run_all(loaded, store, results)
    _show(results / loaded.name, kind.load(loaded.kind).metrics)


@app.command()
def compare(
    scores: Annotated[
        list[str],
        typer.Argument(metavar="SCORES...", help="files of 'score --out'; the stem is the name"),
    ],
    oracle: Annotated[
        str, typer.Option(help="the stem of one of them, or another such file")
    ] = "exact",
    seed: Annotated[int, typer.Option(help="of the bootstrap")] = 0,
    out: Annotated[Path | None, typer.Option(help="CSV file of all numbers")] = None,
) -> None:
    """Agreement of score files with the oracle, with intervals, next to what each cost."""
    from influbench.report import agreement_tables as agreement
    from influbench.report import comparison

    if out is not None:
        comparison.claim(out, (*scores, oracle))
    found = comparison.verdict(scores, oracle, seed=seed)
    if out is not None:
        comparison.write(out, found)
    console = terminal.console()
    for table in agreement.comparison_tables(found, console.width):
        console.print(table)


@app.command()
def estimators(
    name: Annotated[str | None, typer.Argument(help="one method: its card and options")] = None,
) -> None:
    """Every method, one line each: what a score means, what it needs, passes, source."""
    from influbench import registry
    from influbench.cli.listing import estimator_card, estimator_table

    console = terminal.console()
    if name is None:
        console.print(estimator_table(registry.available(), console.width))
    else:
        console.print(estimator_card(name))


@app.command()
def figures(
    study: Annotated[str, typer.Argument(help="a study's name or folder")],
    out: Annotated[Path | None, typer.Option(help="folder for PDF and PNG")] = None,
    results: Results = RESULTS,
) -> None:
    """The figures of a study, as PDF and PNG, from its stored records."""
    from influbench.results import load_study
    from paper_figs import fig_calibration, fig_cost_quality, fig_head_to_head, fig_mt_bench_radar

    loaded = load_study(study, results)
    drawn: list[Path] = []
    missing: list[UserError] = []
    for figure in (fig_cost_quality, fig_head_to_head, fig_mt_bench_radar, fig_calibration):
        try:
            drawn += figure.draw(loaded, out or loaded.path)
        except UserError as nothing:  # a study seldom holds the numbers of every figure
            missing.append(nothing)
    if not drawn:
        raise missing[0]
    for path in drawn:
        terminal.console().print(str(path), soft_wrap=True, markup=False)


@app.command()
def doctor() -> None:
    """What works here: device, models, judge, data, extras."""
    from influbench.cli.doctor import doctor_table

    terminal.console().print(doctor_table())


app.command()(cli_score.score)
app.command()(cli_evaluation.evaluate)
app.command("judge-check")(cli_evaluation.judge_check)


def _show(folder: Path, metrics: Sequence[str] = ()) -> None:
    from influbench.report.agreement_tables import metrics_table
    from influbench.report.cells import WIDE
    from influbench.report.screen import screen
    from influbench.results import load_study

    study = load_study(folder)
    console = terminal.console()
    if not console.is_terminal:  # a file has no edge to wrap at
        console = terminal.console(width=WIDE)
    shown = [metrics_table(study, metrics)] if metrics else screen(study, console.width)
    for table in shown:
        console.print(table)
    console.print(f"results: {study.path}", soft_wrap=True, markup=False)


def main() -> None:
    """Entry point of ``influbench``; the only place that turns errors into exit codes."""
    try:
        app()
    except UserError as error:
        sys.stderr.write(f"influbench: {terminal.plain(' '.join(str(error).split()))}\n")
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == 130:  # what typer makes of Ctrl-C, without a word
            sys.stderr.write(
                "influbench: stopped; what was finished is kept, the same command goes on from "
                "there\n"
            )
        raise
    except Exception as error:
        if os.environ.get("INFLUBENCH_DEBUG"):
            raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        text = terminal.plain(" ".join(str(error).split()))[:500]
        sys.stderr.write(
            f"influbench: this is a bug of influbench: {type(error).__name__}: {text} "
            f"({Path(last.filename).name}:{last.lineno}); INFLUBENCH_DEBUG=1 shows all; "
            "what was finished is kept\n"
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
