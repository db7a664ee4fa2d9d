"""``influbench plan``: what a run or a study will cost, before it is paid."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from influbench import terminal
from influbench.cli import options
from influbench.cli.options import STORE
from influbench.errors import UserError

if TYPE_CHECKING:
    from influbench.loop.plan import Task
    from influbench.loop.plan.prices import Priced
    from influbench.loop.settings import RunConfig

NUMBERS = ("items", "passes", "tokens", "time")


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
    store: options.StoreRoot = STORE,
) -> None:
    """What a run or a study of the loop costs: stages, hours, memory, money; nothing is run."""
    from influbench.loop.plan import calibration
    from influbench.loop.plan import devices as sheets

    runs = None if config is None else _runs(config, overrides or [], seed)
    path = store / calibration.FILE
    console = terminal.console()
    if calibrate:
        from influbench.loop.plan.measure import calibrate as measured

        calibration.save(path, measured())
        console.print(f"measured: {path}", soft_wrap=True, markup=False)
    if runs is None:
        if calibrate:
            return
        raise UserError("plan: expected a preset or a YAML file, such as 'influbench plan tiny'")
    count, device = sheets.parse(devices) if devices else (1, None)
    speeds = calibration.read(path) if device is None else sheets.speeds(device)
    from influbench.loop.plan import lengths, once, price, tasks
    from influbench.loop.plan.paper import beside
    from influbench.loop.plan.prices import SHARDED, stand_ins

    known = [lengths.lengths(cfg.data, cfg.generation) for cfg in runs]
    work = [(cfg, tasks(cfg, own)) for cfg, own in zip(runs, known, strict=True)]
    found = [p for cfg, own in once(work) for p in price(cfg, own, speeds, count)]
    several = len(runs) > 1
    console.print(_of_study(runs[0].name, found) if several else _table(runs[0].name, found))
    if several:
        made = _stages(p.task for p in found)
        all_of_them = sum(_stages(own) for _, own in work)
        console.print(
            f"{len(runs)} runs, {made} stages: {all_of_them - made} more are shared by runs",
            highlight=False,
        )
    total = sum(p.seconds for p in found)
    held = sum(p.seconds * p.devices for p in found)
    console.print(
        f"in all {_time(total)}, {_time(held)} of one device, "
        f"{_size(sum(p.disk for p in found))} of disk, ${sum(p.money for p in found):,.2f} for "
        "the judge",
        highlight=False,
    )
    for text in dict.fromkeys(
        f"{p.task.label}: {_unknown(p.task)}" for p in found if _unknown(p.task)
    ):
        console.print(f"not in it: {text}", highlight=False, markup=False)
    console.print(f"speeds: {speeds.where}", highlight=False, markup=False)
    assumed = [
        text
        for cfg, own in zip(runs, known, strict=True)
        for text in [*own.assumed, *stand_ins(cfg)]
    ]
    for text in dict.fromkeys(assumed):
        console.print(f"assumed: {text}", highlight=False, markup=False)
    if any(p.placement.startswith(SHARDED) for p in found):
        console.print(
            f"'{SHARDED} N': more than one device holds; priced over N, but trainings use one "
            "today: take larger devices, or dpo.method=lora for the teacher",
            highlight=False,
        )
    rows = beside(found, runs[0].student.name) if device and not several else []
    if rows:
        console.print("beside the paper (arXiv 2410.14208, table 7, 8 H100), seconds an item:")
    for row in rows:
        console.print(
            f"  {row.what}: paper {row.paper:.3f}, here {row.ours:.3f}: {row.why}",
            highlight=False,
            markup=False,
        )


def _runs(config: str, overrides: Sequence[str], seed: int | None) -> list[RunConfig]:
    """The run of a preset or file, or all of a study."""
    from influbench.config import read_yaml
    from influbench.loop.reading import OF_A_STUDY, load_run, names
    from influbench.loop.settings import RunConfig

    path = Path(config)
    if config in names() or not path.is_file() or not OF_A_STUDY & read_yaml(path).keys():
        return [load_run(config, overrides, last={} if seed is None else {"seed": seed})]
    from influbench.studies.kind import LOOP
    from influbench.studies.study_file import load_study

    if seed is not None:
        raise UserError(f"--seed {seed}: expected none, since the study {config} has its own")
    study = load_study(config, overrides)
    if study.kind != LOOP:
        raise UserError(
            f"{config}: expected a run or a study of the loop, whose stages are known before they "
            f"are run, got a study of kind '{study.kind}': 'influbench sweep {config} --dry-run' "
            "says which of its runs are there"
        )
    return [cfg for cfg in study.runs.values() if isinstance(cfg, RunConfig)]


def _of_study(name: str, found: Sequence[Priced]) -> Table:
    """One row a kind of stage, whatever its arm; of scores one a method."""
    from influbench.loop.plan.prices import SCORED

    table = _columns(name, ("stage", "times", *NUMBERS, "most memory", "judge"))
    kinds: dict[str, list[Priced]] = {}
    for priced in found:
        task = priced.task
        kinds.setdefault(task.stage + f" {task.label}" * (task.stage in SCORED), []).append(priced)
    for kind, several in kinds.items():
        money = sum(priced.money for priced in several)
        table.add_row(
            escape(kind),
            str(_stages(priced.task for priced in several)),
            *_numbers(several),
            _size(max(priced.memory for priced in several)),
            f"${money:,.2f}" if money else "",
        )
    return table


def _table(name: str, found: Sequence[Priced]) -> Table:
    table = _columns(name, ("stage", *NUMBERS, "on", "memory", "where", "judge"))
    for priced in found:
        task = priced.task
        table.add_row(
            escape(f"{task.stage} {task.label}".strip()),
            *_numbers([priced]),
            str(priced.devices),
            _size(priced.memory),
            priced.placement,
            f"${priced.money:,.2f}" if priced.money else "",
        )
    return table


def _stages(tasks: Iterable[Task]) -> int:
    """How many there are: instructions and their responses are written by one."""
    return sum(not task.label.endswith(" instructions") for task in tasks)


def _columns(name: str, titles: Sequence[str]) -> Table:
    table = Table(
        title=escape(f"{name}: what it will cost"), box=box.SIMPLE_HEAD, padding=0, pad_edge=False
    )
    for title in titles:
        table.add_column(
            title,
            justify="left" if title in ("stage", "where") else "right",
            no_wrap=title != "stage",
        )
    return table


def _numbers(several: Sequence[Priced]) -> list[str]:
    """Items, passes, tokens and time of stages together."""
    tasks = [priced.task for priced in several]
    tokens = sum(
        t.read + t.learn + t.decoded + (t.prompt if t.who == "judge" else 0) for t in tasks
    )
    known = not any(map(_unknown, tasks))
    return [
        _count(sum(task.items for task in tasks)),
        _count(sum(task.passes for task in tasks)),
        _count(tokens),
        _time(sum(p.seconds for p in several)) if known else "?",
    ]


def _unknown(task: Task) -> str:
    """Why nobody knows what a stage takes; empty where that is known."""
    return task.note if "only" in task.note else ""


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
