"""The runs of a study over one store: shared stages are paid once, a failed run stops no other."""

from __future__ import annotations

import fnmatch
import uuid
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from influbench import executors, results
from influbench.config import Config
from influbench.errors import MethodError, UserError
from influbench.executors import ExecutorConfig, Outcome
from influbench.executors.executor import attempt
from influbench.generation.settings import ServerSettings
from influbench.judging import JudgeConfig
from influbench.loop.reading import load_run
from influbench.results import result_file, write_manifest
from influbench.store import receipts
from influbench.studies import kind as kinds
from influbench.studies.board import Board
from influbench.studies.single import Done, Purse, Task, first_missing, run_one
from influbench.studies.study_file import Study, one_run

LOCAL = ExecutorConfig()


@dataclass(frozen=True)
class Swept:
    """What a sweep left."""

    done: Mapping[str, Done] = field(default_factory=dict)
    failed: Mapping[str, Outcome] = field(default_factory=dict)
    """By run: whose mistake, and a line."""

    def lines(self) -> list[str]:
        """One line a run that failed."""
        blame = {"bug": "this is a bug of influbench: "}
        return [f"{run}: {blame.get(o.kind, '')}{o.error}" for run, o in self.failed.items()]

    def raise_if_nothing_ran(self) -> None:
        """Ends a sweep that has no result.

        Raises:
            UserError: every run failed by the user's mistake.
            MethodError: every run failed, and the first by a plug-in's.
            RuntimeError: every run failed, and the first by ours.
        """
        if self.done or not self.failed:
            return
        first, outcome = next(iter(self.failed.items()))
        more = f" (and {len(self.failed) - 1} more runs failed)" if len(self.failed) > 1 else ""
        if all(o.kind == "user" for o in self.failed.values()):
            raise UserError(outcome.error + more)
        if outcome.kind == "bug":
            raise RuntimeError(f"run {first}: {outcome.error}{more}")
        raise MethodError(f"run {first}: {outcome.error}{more}")


def run(
    preset_or_file: str | Path,
    settings: Mapping[str, Any] | None = None,
    *,
    store: str | Path = ".influbench",
    root: str | Path = "results",
) -> results.Study:
    """One run of the loop, published; what ``influbench run`` does.

    Example::

        influbench.run("tiny", {"seed": 1, "scoring.compare": ["random"]}).estimates

    Args:
        preset_or_file: a preset's name or a YAML file.
        settings: what differs from it, by dotted name.
        store: where finished and half-done work is kept.
        root: where the result file goes.

    Returns:
        The study of that name under ``root``, with this run and those that were there.

    Raises:
        UserError: settings that cannot work together (``influbench.loop.pipeline.check``), data or
            models that cannot be read, or a stage that cannot go on.
        MethodError: an estimator from another package failed.
    """
    study = one_run(load_run(str(preset_or_file), settings=settings or {}))
    run_all(study, Path(store), Path(root))
    return results.load_study(study.name, root)


def run_all(
    study: Study,
    store: Path,
    root: Path,
    executor: ExecutorConfig = LOCAL,
    only: Sequence[str] = (),
) -> Swept:
    """Runs what the store does not have yet, and writes one result file a run.

    Every name and folder is checked before the first run starts, and so are all settings; a run
    whose settings cannot work, or that fails later, is told at the end and stops no other. A file
    that holds this very result already stays as it is, date and commit included: a number keeps the
    origin that it was first measured at. What paid servers cost is capped for the study, not for
    each of its runs.

    Args:
        study: its runs.
        store: where finished and half-done work is kept; another sweep may use it meanwhile.
        root: where result files go.
        executor: where runs go.
        only: patterns of the names of runs; the others are left out.

    Raises:
        UserError: nothing could be run, and why; or names and folders that cannot be.
        MethodError: nothing could be run since somebody else's estimator failed.
        RuntimeError: likewise by our own mistake.
    """
    runs = chosen(study, only)
    tasks = _tasks(study, runs, store, root)
    if executor.kind != "local" and any(task.cap is not None for task in tasks.values()):
        raise UserError(
            f"--executor {executor.kind}: judge.max_dollars and generation.server_max_dollars cap "
            "what all runs cost together, which one process must count: use --executor local"
        )
    for name in runs:
        result_file.claim(root, study.name, name)
    refused = {name: o for name in runs if (o := _refused(study, runs[name])) is not None}
    ready = [name for name in runs if name not in refused]
    done: dict[str, Done] = {}
    failed = dict(refused)
    if ready:
        if study.question or len(study.runs) > 1:  # a run by itself adds to what the folder has
            configs = {run: cfg.model_dump(mode="json") for run, cfg in study.runs.items()}
            write_manifest(root, study.name, configs)
        grid = receipts.Grid(runs=tuple(study.runs), workers=executor.workers)
        receipts.write_grid(store, study.name, grid)
        purse = Purse()
        with (
            closing(executors.build(executor, store.resolve() / ".jobs")) as workers,
            Board(study.name, ready, executor.workers) as board,
        ):
            near = board if executor.kind == "local" else None
            given = [(tasks[name].shown_by(near), purse) for name in ready]
            for number, outcome in executors.mapped(
                workers, run_one, given, started=lambda n: board.begin(ready[n])
            ):
                name = ready[number]
                if outcome.kind == "done":
                    done[name] = outcome.value
                else:
                    failed[name] = outcome
                board.end(name, outcome)
    swept = Swept(done, failed)
    swept.raise_if_nothing_ran()
    return swept


def what_is_missing(study: Study, store: Path, root: Path, only: Sequence[str] = ()) -> list[str]:
    """A line a run: whether all of its stages are there, or the first one that would be made."""
    runs = chosen(study, only)
    for name in runs:
        result_file.check_names(study.name, name)
    lines: list[str] = []
    for name, task in _tasks(study, runs, store, root).items():
        outcome = _refused(study, runs[name]) or attempt(first_missing, task)
        said = f"would fail: {outcome.error}" if outcome.error else "cached"
        if outcome.value:
            said = f"would run, from {outcome.value}"
        lines.append(f"{name}: {said}")
    return lines


def chosen(study: Study, only: Sequence[str]) -> dict[str, Config]:
    """The runs whose names match a pattern; all where there is none.

    Raises:
        UserError: a pattern that matches no run.
    """
    for pattern in only:
        if not fnmatch.filter(study.runs, pattern):
            raise UserError(
                f"--only {pattern}: expected the name of a run, * and ? for any characters; there "
                f"are {', '.join(study.runs)}"
            )
    return {
        run: cfg
        for run, cfg in study.runs.items()
        if not only or any(fnmatch.fnmatchcase(run, pattern) for pattern in only)
    }


def _tasks(study: Study, runs: Mapping[str, Config], store: Path, root: Path) -> dict[str, Task]:
    sweep = uuid.uuid4().hex
    caps = [cap for cfg in study.runs.values() if (cap := _cap(cfg)) is not None]
    return {
        name: Task(
            kind=study.kind,
            settings=cfg.model_dump(mode="json"),
            study=study.name,
            run=name,
            store=store.resolve(),
            results=root.resolve(),
            sweep=sweep,
            cap=min(caps, default=None),
        )
        for name, cfg in runs.items()
    }


def _refused(study: Study, cfg: Config) -> Outcome | None:
    """Why a run cannot work; None where nothing speaks against it."""
    outcome = attempt(kinds.load(study.kind).check, cfg)
    return None if outcome.kind == "done" else outcome


def _cap(cfg: Config) -> float | None:
    """The lowest cap that a run states, wherever it does."""
    told: list[object] = [cfg]
    caps: list[float] = []
    while told:
        one = told.pop()
        if isinstance(one, JudgeConfig):
            caps += [one.max_dollars] if one.max_dollars else []
        elif isinstance(one, Config):
            told += dict(one).values()
            if isinstance(one, ServerSettings) and one.server_max_dollars:
                caps.append(one.server_max_dollars)
    return min(caps, default=None)
