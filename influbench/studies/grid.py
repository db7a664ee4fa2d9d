"""The runs of a study one after another, over one store: shared stages are paid once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from influbench import results
from influbench.loop import pipeline, publish
from influbench.loop import reading as presets
from influbench.loop.reading import Study
from influbench.progress import RichProgress
from influbench.results import write_manifest
from influbench.session import Session
from influbench.store import Store


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
    cfg = presets.load_run(str(preset_or_file), settings=settings or {})
    run_all(Study(cfg.name, "", {presets.run_id(cfg): cfg}), Path(store), Path(root))
    return results.load_study(cfg.name, root)


def run_all(study: Study, store: Path, results: Path) -> list[Path]:
    """Runs what the store does not have yet, and writes one result file a run.

    Every run is checked before the first one starts.

    Raises:
        UserError: see ``pipeline.check``; the message names the run.
    """
    session = Session(Store(store, RichProgress()))
    for cfg in study.runs.values():
        pipeline.check(cfg)
    if study.question or len(study.runs) > 1:  # a run by itself adds to what the folder has
        configs = {run: cfg.model_dump(mode="json") for run, cfg in study.runs.items()}
        write_manifest(results, study.name, configs)
    paths: list[Path] = []
    for number, (run_id, cfg) in enumerate(study.runs.items(), 1):
        session.store.progress.note(f"{study.name} {number}/{len(study.runs)}: {run_id}")
        done = pipeline.run(cfg, session.part())
        paths.append(publish.publish(done, results, study.name, run_id))
    return paths
