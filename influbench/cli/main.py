"""The command line: parse, call, print. Exit code 2 for the user's mistake, 1 for ours."""

from __future__ import annotations

import os
import sys
import traceback
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

# Two idle worker threads that spin between matrix products starve each other on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import typer

from influbench import terminal
from influbench.cli import evaluation, plan, report, runs, stores
from influbench.cli import score as scoring
from influbench.errors import MethodError, UserError, of_the_machine
from influbench.executors import team

LONGEST = 1200
"""Characters of a message."""

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
def estimators(
    name: Annotated[str | None, typer.Argument(help="one method: its card and options")] = None,
) -> None:
    """Every method, one line each: what a score means, what it needs, passes, source."""
    from influbench.cli.listing import estimator_card, estimator_table
    from influbench.estimator import registry

    console = terminal.console()
    if name is None:
        console.print(estimator_table(registry.available(), console.width))
    else:
        console.print(estimator_card(name))


@app.command()
def doctor() -> None:
    """What works here: device, models, judge, data, extras."""
    from influbench.cli.doctor import doctor_table

    terminal.console().print(doctor_table())


for command in (runs.run, runs.sweep, runs.status, plan.plan, runs.figures, report.report):
    app.command()(command)
for command in (scoring.score, scoring.compare):
    app.command()(command)
app.command()(evaluation.evaluate)
app.command("judge-check")(evaluation.judge_check)
app.add_typer(stores.app, name="store")


def _short(line: str) -> str:
    """What a line says without the middle of what somebody gave, which may be a whole file."""
    return line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} … {line[-LONGEST // 2 :]}"


def main() -> None:
    """Entry point of ``influbench``; the only place that turns errors into exit codes."""
    if team.follows():
        team.serve()
        return
    try:
        app()
    except UserError as error:
        sys.stderr.write(f"influbench: {terminal.plain(_short(' '.join(str(error).split())))}\n")
        sys.exit(2)
    except MethodError as error:
        if os.environ.get("INFLUBENCH_DEBUG"):
            raise
        sys.stderr.write(
            f"influbench: {terminal.plain(str(error))}; INFLUBENCH_DEBUG=1 shows all; what was "
            "finished is kept\n"
        )
        sys.exit(1)
    except SystemExit as stop:
        if stop.code == 130:  # what typer makes of Ctrl-C, without a word
            sys.stderr.write(
                "influbench: stopped; what was finished is kept, the same command goes on from "
                "there\n"
            )
        raise
    except Exception as error:
        if line := of_the_machine(error):
            sys.stderr.write(f"influbench: {terminal.plain(line)}\n")
            sys.exit(2)
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
    finally:
        team.dismiss()


if __name__ == "__main__":
    main()
