"""The runs of a study one after another, over one store: shared stages are paid once."""

from __future__ import annotations

from pathlib import Path

from influbench.loop import pipeline, publish
from influbench.loop.reading import Study
from influbench.progress import RichProgress
from influbench.session import Session
from influbench.store import Store


def run_all(study: Study, store: Path, results: Path) -> list[Path]:
    """Runs what the store does not have yet, and writes one result file a run.

    Every run is checked before the first one starts.

    Raises:
        UserError: see ``pipeline.check``; the message names the run.
    """
    session = Session(Store(store, RichProgress()))
    for cfg in study.runs.values():
        pipeline.check(cfg)
    paths: list[Path] = []
    for number, (run_id, cfg) in enumerate(study.runs.items(), 1):
        session.store.progress.note(f"{study.name} {number}/{len(study.runs)}: {run_id}")
        done = pipeline.run(cfg, session.part())
        paths.append(publish.publish(done, results, study.name, run_id))
    return paths
