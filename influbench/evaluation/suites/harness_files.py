"""The files that a task of the harness reads: found, checked, and part of its stage by content."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from influbench.errors import UserError
from influbench.files import digest, write_bytes

OFFLINE_GSM8K = "gsm8k_local"
TEMPLATE = Path(__file__).parent / "tasks" / "gsm8k_local.yaml"


def content(task: str, given: Sequence[Path], include_path: Path | None) -> str:
    """Refuses a task whose files are missing; returns a digest of all that it reads.

    That is the harness's version, the files in ``include_path``, the local data that they name, and
    the files given.

    Args:
        task: its name.
        given: files of the task itself: GSM8K's train and test set.
        include_path: a folder of task files.

    Raises:
        UserError: lm-eval is not installed, or a file is missing.
    """
    try:
        found = [version("lm_eval")]
    except PackageNotFoundError as error:
        raise UserError(
            "the harness needs lm-eval, which is not installed: pip install 'influbench[harness]'"
        ) from error
    if task == OFFLINE_GSM8K and not given and include_path is None:
        raise UserError(
            f"harness:{task} needs evaluation.harness.gsm8k_train and gsm8k_test, two files "
            "(JSONL with question, answer): --set evaluation.harness.gsm8k_train=FILE"
        )
    files = list(given)
    if include_path is not None:
        if not include_path.is_dir():
            raise UserError(
                f"evaluation.harness.include_path = {include_path}: expected a folder of task "
                "files, there is none"
            )
        own = sorted(path for path in include_path.rglob("*") if path.is_file())
        files += [*own, *(data for path in own for data in _named_data(path))]
    for path in files:
        if not path.is_file():
            raise UserError(f"harness:{task}: expected a file at {path}, there is none")
        found.append(digest(path.read_bytes()))
    return json.dumps(found)


def offline_gsm8k(folder: Path, train: Path, test: Path, *, shots: int = 8) -> Path:
    """Writes a task ``gsm8k_local`` over local files, to be given as ``include_path``.

    Args:
        folder: made where it is missing.
        train: JSONL with ``question`` and ``answer``; its first ``shots`` rows are the examples.
        test: JSONL with ``question`` and ``answer``.
        shots: few-shot examples.

    Returns:
        ``folder``.

    Raises:
        UserError: a file is missing or its first row has no question and answer.
    """
    for path in (train, test):
        if not path.is_file():
            raise UserError(f"expected a GSM8K file (JSONL with question, answer) at {path}")
        with path.open(encoding="utf-8") as file:
            line = file.readline()
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or not {"question", "answer"} <= row.keys():
            raise UserError(f"{path}:1: expected question and answer, got {line.strip()[:80]!r}")
    task = yaml.safe_load(TEMPLATE.read_text(encoding="utf-8"))
    task["dataset_kwargs"]["data_files"] = {
        "train": str(train.resolve()),
        "test": str(test.resolve()),
    }
    task["num_fewshot"] = shots
    write_bytes(folder / TEMPLATE.name, yaml.safe_dump(task, sort_keys=False).encode())
    return folder


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
