"""One task of the harness as a stage: the student on disk, numbers and items kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field

from influbench import models
from influbench.config import Config, transport
from influbench.errors import UserError
from influbench.evaluation.suites import harness
from influbench.evaluation.suites.harness import HarnessConfig
from influbench.files import digest
from influbench.records import ModelRef
from influbench.store import Stage, Work


class TaskConfig(Config):
    """A task and how it is put; its files are an input of the stage, by content."""

    task: str
    shots: int | None = Field(default=None, ge=0, description="None = the paper's, else its own")
    limit: int | None = Field(default=None, ge=1)
    chat: bool = Field(default=False, description="put questions through the chat template")
    chat_template: str | None = None
    seed: int = 1234
    dtype: Literal["float32", "bfloat16"] = "float32"
    max_length: int | None = None
    include_path: Path | None = transport(None)
    gsm8k_train: Path | None = transport(None, "files of the task gsm8k_local")
    gsm8k_test: Path | None = transport(None)
    batch_size: int = transport(8, gt=0)
    device: str = transport("auto")


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskNumber:
    """One number of the harness, as it says it."""

    name: str
    """``task/metric`` or ``task/metric/filter``."""
    value: float
    """A fraction."""
    stderr: float | None
    n: int


def measure(cfg: TaskConfig, content: str, student: ModelRef, *, work: Work) -> None:  # noqa: ARG001
    """Writes ``numbers`` and ``outcomes``; ``work.meta`` has the shots of each task.

    Args:
        cfg: the task.
        content: see :func:`content`; only there so that other files make another entry.
        student: the model.
        work: where the stage writes.

    Raises:
        UserError: see ``harness.evaluate``.
    """
    loaded = models.load(
        student, dtype=cfg.dtype, device=cfg.device, chat_template=cfg.chat_template
    )
    include = cfg.include_path
    if cfg.gsm8k_train and cfg.gsm8k_test:
        shots = 8 if cfg.shots is None else cfg.shots
        include = harness.offline_gsm8k(
            work.folder("scratch"), cfg.gsm8k_train, cfg.gsm8k_test, shots=shots
        )
    settings = HarnessConfig(
        tasks=(cfg.task,),
        shots={} if cfg.shots is None else {cfg.task: cfg.shots},
        limit=cfg.limit,
        include_path=include,
        chat=cfg.chat,
        seed=cfg.seed,
        batch_size=cfg.batch_size,
        max_length=cfg.max_length,
    )
    with work.meter.phase("harness", models=[loaded.model]) as phase:
        found = harness.evaluate(loaded, settings)
        phase.cost.items = len({outcome.item for outcome in found.outcomes})
    numbers = [
        TaskNumber(name=name, value=s.value, stderr=s.stderr, n=s.n)
        for name, s in found.summaries.items()
    ]
    work.write("numbers", numbers)
    work.write("outcomes", found.outcomes)
    work.meta["shots"] = found.shots


def check(cfg: TaskConfig) -> str:
    """Refuses a task whose files are missing; returns what :func:`measure` takes as ``content``.

    That is a digest of the harness's version, the files in ``include_path``, the local data that
    they name, and the GSM8K files.

    Raises:
        UserError: lm-eval is not installed, or a file is missing.
    """
    try:
        found = [version("lm_eval")]
    except PackageNotFoundError as error:
        raise UserError(
            "the harness needs lm-eval, which is not installed: pip install 'influbench[harness]'"
        ) from error
    given = [cfg.gsm8k_train, cfg.gsm8k_test]
    if cfg.task == harness.OFFLINE_GSM8K and not all(given) and cfg.include_path is None:
        raise UserError(
            f"harness:{cfg.task} needs --gsm8k-train FILE and --gsm8k-test FILE (JSONL with "
            "question, answer)"
        )
    files = [path for path in given if path is not None]
    if cfg.include_path is not None:
        if not cfg.include_path.is_dir():
            raise UserError(
                f"--include-path {cfg.include_path}: expected a folder of task files, there is none"
            )
        own = sorted(path for path in cfg.include_path.rglob("*") if path.is_file())
        files += [*own, *(data for path in own for data in _named_data(path))]
    for path in files:
        if not path.is_file():
            raise UserError(f"harness:{cfg.task}: expected a file at {path}, there is none")
        found.append(digest(path.read_bytes()))
    return json.dumps(found)


class _Tolerant(yaml.SafeLoader):
    """Reads task files without running the functions that they name."""


_Tolerant.add_multi_constructor("!", lambda *_: None)


def _named_data(path: Path) -> list[Path]:
    """The local data files that a task file names."""
    if path.suffix not in (".yaml", ".yml"):
        return []
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_Tolerant)
    except yaml.YAMLError as error:
        raise UserError(f"{path}: expected YAML, got: {' '.join(str(error).split())}") from error
    data = tree.get("dataset_kwargs") if isinstance(tree, dict) else None
    return sorted({Path(text) for text in _texts(data) if Path(text).is_file()})


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


STAGE = Stage("harness", 2, measure)
