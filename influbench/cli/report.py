"""The command that makes one HTML page of studies or score files. Parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from influbench import terminal
from influbench.cli import options
from influbench.errors import require


def report(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="STUDY...", help="studies by name or folder, files of 'score --out'"
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="the page; by default NAME.html, of the first STUDY")
    ] = None,
    candidates: Annotated[
        Path | None, typer.Option(help="the file that was scored, for the candidates' texts")
    ] = None,
    oracle: Annotated[
        str | None, typer.Option(help="which score file the others are compared with; else exact")
    ] = None,
    overrides: options.Set = None,
    store: options.StoreRoot = options.STORE,
    results: options.Results = options.RESULTS,
) -> None:
    """One self-contained HTML page: the answer, tables, charts, and every candidate."""
    require("report", "'influbench report'")
    from influbench.report import page
    from influbench.report.comparison import CompareConfig
    from influbench.report.page.texts import Texts

    against = options.checked(CompareConfig, {"oracle": oracle}, overrides)
    given = [source for source in sources if Path(source).is_file()]
    target = page.claim(out or Path(f"{Path(sources[0]).stem}.html"), [*given, candidates])
    made = page.page_of(sources, results, Texts(store, candidates), against)
    page.write(target, made)
    console = terminal.console()
    count = sum(len(own.ids) for own in made.sets)
    without = [own.name for own in made.sets if own.texts is None]
    console.print(
        f"{target}: {target.stat().st_size / 2**20:.1f} MiB, {count:,} candidates",
        soft_wrap=True,
        markup=False,
    )
    if without:
        console.print(
            f"note: no texts of {', '.join(without)}: neither in the store {store} nor in "
            "--candidates; the page shows their ids",
            soft_wrap=True,
            markup=False,
        )
