"""The runs of a study one after another, over one store: shared stages are paid once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from influbench import results
from influbench.config import Config
from influbench.judging import Budget, JudgeConfig
from influbench.loop.reading import load_run
from influbench.progress import RichProgress
from influbench.results import result_file, write_manifest
from influbench.session import Session
from influbench.store import Store
from influbench.studies import kind as kinds
from influbench.studies.study_file import Study, one_run


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
        UserError: see ``pipeline.check``; or a stage cannot go on.
    """
    study = one_run(load_run(str(preset_or_file), settings=settings or {}))
    run_all(study, Path(store), Path(root))
    return results.load_study(study.name, root)


def run_all(study: Study, store: Path, root: Path) -> list[Path]:
    """Runs what the store does not have yet, and writes one result file a run.

    Every run is checked before the first one starts. A file that holds this very result already
    stays as it is, date and commit included: a number keeps the origin that it was first measured
    at. What paid judges cost is capped for the study, not for each of its runs.

    Raises:
        UserError: what the kind of study refuses, or a stage that cannot go on.
    """
    kind = kinds.load(study.kind)
    caps = [cap for cfg in study.runs.values() if (cap := _cap(cfg)) is not None]
    session = Session(Store(store, RichProgress()), Budget(min(caps, default=None)))
    for cfg in study.runs.values():
        kind.check(cfg)
    if study.question or len(study.runs) > 1:  # a run by itself adds to what the folder has
        configs = {run: cfg.model_dump(mode="json") for run, cfg in study.runs.items()}
        write_manifest(root, study.name, configs)
    paths: list[Path] = []
    for number, (run_id, cfg) in enumerate(study.runs.items(), 1):
        session.store.progress.note(f"{study.name} {number}/{len(study.runs)}: {run_id}")
        done = kind.run(cfg, session.part(), study.name, run_id)
        paths.append(result_file.write_if_new(root, study.name, run_id, done))
    return paths


def _cap(cfg: Config) -> float | None:
    judge = getattr(cfg, "judge", None)
    return judge.max_dollars if isinstance(judge, JudgeConfig) else None
