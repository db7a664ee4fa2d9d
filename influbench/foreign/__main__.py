"""``python -m influbench.foreign install NAME`` and ``… list``."""

from __future__ import annotations

import sys

import typer

from influbench.errors import UserError
from influbench.foreign import environments


def main() -> None:
    """The command line."""
    app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

    @app.command()
    def install(name: str) -> None:
        """Makes the environment of a toolkit (minutes, gigabytes)."""
        typer.echo(f"{name}: {environments.install(environments.toolkit(name))}")

    @app.command(name="list")
    def show() -> None:
        """Toolkits, and whether their environments are there."""
        for name, wanted in environments.TOOLKITS.items():
            state = "installed" if environments.installed(wanted) else wanted.install_command
            typer.echo(f"{name} {wanted.version}: {state}")

    try:
        app()
    except UserError as error:
        typer.echo(str(error), err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
