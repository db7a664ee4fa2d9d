"""Options that several commands share, and how they become settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from influbench.config import Config
    from influbench.executors import ExecutorConfig
    from influbench.store.session import Session

C = TypeVar("C", bound="Config")

Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override any setting")
]
Seed = Annotated[int | None, typer.Option(help="seed of the run")]


def _folder(text: str | Path) -> Path:
    """The folder that an option names.

    Raises:
        BadParameter: it is empty, as a variable that is not set; pathlib takes that for this
            folder.
    """
    if not str(text):
        raise typer.BadParameter("expected a folder, got an empty name")
    return Path(text)


Results = Annotated[
    Path, typer.Option(metavar="FOLDER", parser=_folder, help="where result files go")
]
StoreRoot = Annotated[
    Path,
    typer.Option(
        "--store",
        metavar="FOLDER",
        parser=_folder,
        envvar="INFLUBENCH_STORE",
        help="where finished and half-done work is kept",
    ),
]
Executor = Annotated[
    str | None,
    typer.Option("--executor", metavar="KIND", help="local, pool, slurm or ray; changes no result"),
]
RayAddress = Annotated[
    str | None, typer.Option(help="of a Ray cluster: auto or HOST:PORT; else this machine")
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="processes that share the candidates and GPUs")
]
STORE, RESULTS = Path(".influbench"), Path("results")


def checked(kind: type[C], given: Mapping[str, Any], overrides: Sequence[str] | None) -> C:
    """The settings of a command: what its options say, under what ``--set`` says.

    Args:
        kind: of the settings.
        given: by dotted name; None = not given.
        overrides: ``key.subkey=value``, values in YAML, applied in order.

    Raises:
        UserError: a setting that does not exist or has a wrong value; the first one.
    """
    from influbench.config import from_settings

    return from_settings(kind, given, "options", overrides or ())


def sharing(executor: str | None, workers: int | None, ray_address: str | None) -> dict[str, Any]:
    """Settings of the stages whose candidates are shared, by dotted name."""
    return {
        "scoring.workers": workers,
        "scoring.executor.kind": executor or ("ray" if ray_address else None),
        "scoring.executor.ray_address": ray_address,
    }


def executor(kind: str | None, ray_address: str | None) -> ExecutorConfig:
    """Where a command's one task runs."""
    from influbench.executors import ExecutorConfig

    given = {"kind": kind or ("ray" if ray_address else None), "ray_address": ray_address}
    return checked(ExecutorConfig, given, None)


def session(root: Path, max_dollars: float | None = None) -> Session:
    """What a command runs its stages through, with a progress bar."""
    from influbench.store import Store
    from influbench.store.budget import Budget
    from influbench.store.session import Session
    from influbench.terminal.progress import RichProgress

    return Session(Store(root, RichProgress()), Budget(max_dollars))
