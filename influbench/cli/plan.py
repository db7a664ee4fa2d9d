"""``influbench plan``: what a run will cost, before it is paid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from influbench import terminal
from influbench.cli import options
from influbench.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from influbench.loop.plan.prices import Priced


def plan(
    config: Annotated[str | None, typer.Argument(metavar="PRESET_OR_FILE")] = None,
    devices: Annotated[
        str | None, typer.Option(help="a machine that is not here, such as 8xH100")
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="measure this machine first (two minutes)")
    ] = False,
    overrides: options.Set = None,
    seed: options.Seed = None,
    store: options.StoreRoot = options.STORE,
) -> None:
    """Stages, passes, tokens, memory, hours, disk and money of a run; nothing is run."""
    from influbench.loop.plan import calibration
    from influbench.loop.plan import devices as sheets
    from influbench.loop.reading import load_run

    given = [*(overrides or []), *([] if seed is None else [f"seed={seed}"])]
    cfg = None if config is None else load_run(config, given)
    path = store / calibration.FILE
    console = terminal.console()
    if calibrate:
        from influbench.loop.plan.measure import calibrate as measured

        calibration.save(path, measured())
        console.print(f"measured: {path}", soft_wrap=True, markup=False)
    if cfg is None:
        if calibrate:
            return
        raise UserError("plan: expected a preset or a YAML file, such as 'influbench plan tiny'")
    count, device = sheets.parse(devices) if devices else (1, None)
    speeds = calibration.read(path) if device is None else sheets.speeds(device)
    from influbench.loop.plan import lengths, price, tasks
    from influbench.loop.plan.paper import beside
    from influbench.loop.plan.prices import SHARDED, stand_ins

    known = lengths.lengths(cfg.data, cfg.generation)
    found = price(cfg, tasks(cfg, known), speeds, count)
    console.print(_table(cfg.name, found))
    total = sum(p.seconds for p in found)
    held = sum(p.seconds * p.devices for p in found)
    console.print(
        f"in all {_time(total)}, {_time(held)} of one device, "
        f"{_size(sum(p.disk for p in found))} of disk, ${sum(p.money for p in found):,.2f} for "
        "the judge",
        highlight=False,
    )
    console.print(f"speeds: {speeds.where}", highlight=False, markup=False)
    for text in [*known.assumed, *stand_ins(cfg)]:
        console.print(f"assumed: {text}", highlight=False, markup=False)
    if any(p.placement.startswith(SHARDED) for p in found):
        console.print(
            f"'{SHARDED} N': more than one device holds; priced over N, but trainings use one "
            "today: take larger devices, or dpo.method=lora for the teacher",
            highlight=False,
        )
    rows = beside(found, cfg.student.name) if device else []
    if rows:
        console.print("beside the paper (arXiv 2410.14208, table 7, 8 H100), seconds an item:")
    for row in rows:
        console.print(
            f"  {row.what}: paper {row.paper:.3f}, here {row.ours:.3f}: {row.why}",
            highlight=False,
            markup=False,
        )


def _table(name: str, found: Sequence[Priced]) -> Table:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        title=escape(f"{name}: what it will cost"), box=box.SIMPLE_HEAD, padding=0, pad_edge=False
    )
    for title in ("stage", "items", "passes", "tokens", "time", "on", "memory", "where", "judge"):
        table.add_column(
            title,
            justify="left" if title in ("stage", "where") else "right",
            no_wrap=title != "stage",
        )
    for priced in found:
        task = priced.task
        tokens = task.read + task.learn + task.decoded + (task.prompt if task.who == "judge" else 0)
        table.add_row(
            escape(f"{task.stage} {task.label}".strip()),
            _count(task.items),
            _count(task.passes),
            _count(tokens),
            f"? ({escape(task.note)})" if "only" in task.note else _time(priced.seconds),
            str(priced.devices),
            _size(priced.memory),
            priced.placement,
            f"${priced.money:,.2f}" if priced.money else "",
        )
    return table


def _count(number: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if number >= size:
            return f"{number / (1e3 if letter == 'k' else size):.3g}{letter}"
    return f"{number:.0f}"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 5e7 else f"{count / 1e6:.0f} MB"
