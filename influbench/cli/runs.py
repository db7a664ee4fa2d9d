"""The commands that run the loop and studies, and draw what they found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from influbench import terminal
from influbench.cli import options
from influbench.errors import UserError, require


def run(
    config: Annotated[str, typer.Argument(metavar="PRESET_OR_FILE")],
    overrides: options.Set = None,
    seed: options.Seed = None,
    store: options.StoreRoot = options.STORE,
    results: options.Results = options.RESULTS,
) -> None:
    """One run of the loop: prints the table, writes results."""
    from influbench.loop.reading import load_run
    from influbench.studies.grid import run_all
    from influbench.studies.study_file import one_run

    given = [*(overrides or []), *([] if seed is None else [f"seed={seed}"])]
    study = one_run(load_run(config, given))
    run_all(study, store, results)
    _show(results / study.name)


def sweep(
    study: Annotated[str, typer.Argument(metavar="STUDY.yaml")],
    overrides: options.Set = None,
    store: options.StoreRoot = options.STORE,
    results: options.Results = options.RESULTS,
) -> None:
    """A study: all runs of its grid, shared stages once; run it again to resume."""
    from influbench.studies import kind
    from influbench.studies.grid import run_all
    from influbench.studies.study_file import load_study

    loaded = load_study(study, overrides or [])
    run_all(loaded, store, results)
    _show(results / loaded.name, kind.load(loaded.kind).metrics)


def figures(
    study: Annotated[str, typer.Argument(help="a study's name or folder")],
    out: Annotated[Path | None, typer.Option(help="folder for PDF and PNG")] = None,
    results: options.Results = options.RESULTS,
) -> None:
    """The figures of a study, as PDF and PNG, from its stored records."""
    require("figures", "'influbench figures'")
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
