"""The commands that run the loop and studies, say how they stand, and draw what they found."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from influbench import terminal
from influbench.cli import options
from influbench.cli.options import RESULTS, STORE
from influbench.errors import UserError, require


def run(
    config: Annotated[str, typer.Argument(metavar="PRESET_OR_FILE")],
    overrides: options.Set = None,
    seed: options.Seed = None,
    workers: options.Workers = None,
    executor: options.Executor = None,
    ray_address: options.RayAddress = None,
    store: options.StoreRoot = STORE,
    results: options.Results = RESULTS,
) -> None:
    """One run of the loop: prints the table, writes results."""
    from influbench.loop.reading import load_run
    from influbench.studies.grid import run_all
    from influbench.studies.study_file import one_run

    given = {"seed": seed, **options.sharing(executor, workers, ray_address)}
    set_by_option = {key: value for key, value in given.items() if value is not None}
    study = one_run(load_run(config, overrides or [], last=set_by_option))
    run_all(study, store, results)
    _show(results / study.name)


def sweep(
    study: Annotated[str, typer.Argument(metavar="STUDY.yaml")],
    overrides: options.Set = None,
    executor: options.Executor = None,
    jobs: Annotated[int | None, typer.Option("--jobs", min=1, help="runs at a time")] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="runs of such a name: 'exact,*'")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="say what would run, and run nothing")
    ] = False,
    gpus: Annotated[float | None, typer.Option(min=0, help="of a run, on slurm and ray")] = None,
    memory_gb: Annotated[
        float | None, typer.Option(min=0, help="of a run, on slurm and ray")
    ] = None,
    ray_address: options.RayAddress = None,
    slurm: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="submitit's, such as slurm_partition=gpu"),
    ] = None,
    store: options.StoreRoot = STORE,
    results: options.Results = RESULTS,
) -> None:
    """A study: all runs of its grid, shared stages once; run it again to resume."""
    from influbench.executors import ExecutorConfig
    from influbench.loop.reading import parse_options
    from influbench.studies import grid, kind
    from influbench.studies.study_file import load_study

    several = "ray" if ray_address else "pool" if jobs is not None and jobs > 1 else None
    more: dict[str, Any] = parse_options(slurm or [], "--slurm")
    given = {
        "kind": executor or several,
        "workers": jobs,
        "gpus": gpus,
        "memory_gb": memory_gb,
        "ray_address": ray_address,
        "slurm_cluster": more.pop("cluster", None),
        "slurm": more,
    }
    where = options.checked(ExecutorConfig, given, None)
    loaded = load_study(study, overrides or [])
    console = terminal.console()
    if dry_run:
        for line in grid.what_is_missing(loaded, store, results, only or ()):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        return
    swept = grid.run_all(loaded, store, results, where, only or ())
    _show(results / loaded.name, kind.load(loaded.kind).metrics)
    for line in swept.lines():
        sys.stderr.write(f"influbench: failed: {terminal.line(line)}\n")
    if swept.failed:
        raise typer.Exit(1)


def status(
    study: Annotated[str, typer.Argument(help="the name of a study, or its YAML file")],
    store: options.StoreRoot = STORE,
) -> None:
    """How a sweep stands, from another terminal: done, running, failed, cost so far, time left."""
    from influbench.studies.standing import standing

    console = terminal.console()
    found = standing(store, study)
    console.print(found.table())
    console.print(found.summary(), markup=False, highlight=False, soft_wrap=True)


def figures(
    studies: Annotated[list[str], typer.Argument(metavar="STUDY…", help="names or folders")],
    out: Annotated[Path | None, typer.Option(help="folder; one inside it a study")] = None,
    results: options.Results = RESULTS,
) -> None:
    """Figures and tables of studies from their stored records: PDF, PNG, Markdown, LaTeX."""
    require("figures", "'influbench figures'")
    from influbench.results import load_study
    from paper_figs.catalogue import draw_all

    loaded = [load_study(study, results) for study in dict.fromkeys(studies)]
    names = [study.name for study in loaded]
    if out is not None and len(set(names)) < len(names):
        raise UserError(f"expected studies of different names with --out, got {names}")
    places = [out if out and len(loaded) == 1 else out and out / name for name in names]
    drawn = draw_all(
        [(study, place or study.path) for study, place in zip(loaded, places, strict=True)]
    )
    console = terminal.console()
    for path in drawn.files:
        console.print(str(path), soft_wrap=True, markup=False)
    for line in drawn.missing:
        console.print(f"not drawn: {line}", soft_wrap=True, markup=False, highlight=False)
    if not drawn.files:
        raise UserError(f"expected studies with numbers to draw, got none in {', '.join(names)}")


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
