"""lm-eval harness as a library: accuracy on MMLU, GPQA, ARC-C, GSM8K, HellaSwag and others.

The numbers are the harness's own; what is added are the paper's shots, outcomes item by item, and
standard errors from them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import Field

from influbench.config import Config, transport
from influbench.errors import UserError
from influbench.files import write_bytes
from influbench.records import Outcome
from influbench.statistics.estimate import Estimate

if TYPE_CHECKING:
    from influbench.models import LoadedModel

PAPER_SHOTS = {
    "mmlu": 0,
    "gpqa_main_zeroshot": 0,
    "arc_challenge": 25,
    "gsm8k": 8,
    "hellaswag": 8,
}
"""Tasks and few-shot examples of the paper (8 for HellaSwag is its own choice; 10 is usual)."""
TEMPLATE = Path(__file__).parent / "tasks" / "gsm8k_local.yaml"
OFFLINE_GSM8K = "gsm8k_local"


class HarnessConfig(Config):
    """What the harness measures."""

    tasks: tuple[str, ...] = tuple(PAPER_SHOTS)
    shots: dict[str, int] = Field(default_factory=dict)
    """By task; else the paper's, else the task's own."""
    limit: int | None = Field(default=None, gt=0)
    """Items of each task; None = all. The first ones, as the harness takes them."""
    include_path: Path | None = None
    """A folder of task files; with it only tasks from there are offered: nothing is indexed."""
    chat: bool = False
    """Whether questions are put through the chat template, few-shot examples as turns."""
    seed: int = 1234
    """For the choice of few-shot examples; the harness's own default."""
    batch_size: int = transport(8, gt=0)
    max_length: int | None = None
    """Tokens of context; None = the model's."""


@dataclass(frozen=True)
class HarnessResult:
    """What the harness says, and what it is made of."""

    summaries: dict[str, Estimate]
    """By ``task/metric`` or ``task/metric/filter``, as fractions like the harness's own."""
    outcomes: list[Outcome]
    """By item of each leaf task: ``metric`` as above, ``category`` the task."""
    shots: dict[str, int]
    """Few-shot examples that were used, by leaf task."""


def evaluate(model: LoadedModel, cfg: HarnessConfig) -> HarnessResult:
    """Scores a model on tasks of the harness.

    Args:
        model: with its tokenizer; the pair of ``models.load``.
        cfg: tasks and settings.

    Raises:
        UserError: lm-eval is not installed, there is no such task, or its data cannot be had.
    """
    simple_evaluate, HFLM, TaskManager = _lm_eval()
    if cfg.chat:
        from influbench.models import chat

        # As everywhere else: refused without one, and the same on every day.
        model.tokenizer.chat_template = chat.template(model.tokenizer)
    manager = TaskManager(
        include_path=None if cfg.include_path is None else str(cfg.include_path),
        # Indexing the harness's own 228 folders takes 18 seconds.
        include_defaults=cfg.include_path is None,
    )
    unknown = sorted(set(cfg.tasks) - set(manager.all_tasks))
    if unknown:
        where = cfg.include_path or "the harness"
        some = [t for t in manager.all_tasks if t[:4] in {u[:4] for u in unknown}][:8]
        raise UserError(
            f"no task named {unknown} in {where}; "
            + (f"near it: {some}" if some else "'lm_eval ls tasks' lists the harness's own")
        )
    wrapped = HFLM(
        pretrained=model.model,
        tokenizer=model.tokenizer,
        batch_size=cfg.batch_size,
        device=str(model.model.device),
        max_length=cfg.max_length,
    )
    summaries: dict[str, Estimate] = {}
    outcomes: list[Outcome] = []
    used: dict[str, int] = {}
    for task in cfg.tasks:
        with _data_errors(task):
            found = simple_evaluate(
                model=wrapped,
                tasks=[task],
                num_fewshot=cfg.shots.get(task, PAPER_SHOTS.get(task)),
                limit=cfg.limit,
                bootstrap_iters=0,
                apply_chat_template=cfg.chat,
                fewshot_as_multiturn=cfg.chat,
                task_manager=manager,
                fewshot_random_seed=cfg.seed,
                log_samples=True,
            )
        assert found is not None, "the harness returns results in the main process"
        own = list(_outcomes(found))
        summaries |= _summaries(found, own)
        outcomes += own
        used |= {name: int(shots) for name, shots in found["n-shot"].items()}
    return HarnessResult(summaries, outcomes, used)


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


def _lm_eval() -> tuple[Any, Any, Any]:
    """``simple_evaluate``, ``HFLM`` and ``TaskManager``."""
    try:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise UserError(
            f"the harness needs lm-eval ({error.name} is missing): "
            "pip install 'influbench[harness]'"
        ) from error
    return simple_evaluate, HFLM, TaskManager


@contextmanager
def _data_errors(task: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ConnectionError) as error:
        said = " ".join(str(error).split())[:160]
        raise UserError(
            f"the data of task '{task}' cannot be had ({type(error).__name__}: {said}): check the "
            "network, or give tasks over local files by include_path"
        ) from error


def _name(task: str, metric: str, choice: str) -> str:
    return f"{task}/{metric}" if choice == "none" else f"{task}/{metric}/{choice}"


def _outcomes(found: dict[str, Any]) -> Iterator[Outcome]:
    """Per item and metric, where the metric is one number an item."""
    for task, samples in found["samples"].items():
        for sample in samples:
            for metric in sample["metrics"]:
                value = sample[metric]
                if isinstance(value, (bool, int, float)):
                    yield Outcome(
                        metric=_name(task, metric, sample["filter"]),
                        item=f"{task}:{sample['doc_id']}",
                        value=float(value),
                        category=task,
                    )


def _summaries(found: dict[str, Any], outcomes: Sequence[Outcome]) -> dict[str, Estimate]:
    """The harness's numbers, with standard errors from the items where those are plain means."""
    spread: dict[str, list[float]] = {}
    for outcome in outcomes:
        spread.setdefault(outcome.metric, []).append(outcome.value)
    summaries: dict[str, Estimate] = {}
    for task, numbers in found["results"].items():
        for key, value in numbers.items():
            metric, _, choice = key.partition(",")
            if not choice or metric.endswith("_stderr") or not isinstance(value, (int, float)):
                continue
            name = _name(task, metric, choice)
            count = found["n-samples"].get(task, {}).get("effective")
            items = spread.get(name, [])
            summaries[name] = Estimate(
                value=float(value),
                stderr=_stderr(items, float(value)),
                n=int(count or _leaves(found, task)),
                unit="fraction",
            )
    return summaries


def _stderr(items: list[float], value: float) -> float | None:
    """Of the mean, if the number is the mean of its items."""
    count = len(items)
    if count < 2 or abs(sum(items) / count - value) > 1e-9:
        return None
    mean = sum(items) / count
    return (sum((item - mean) ** 2 for item in items) / (count - 1) / count) ** 0.5


def _leaves(found: dict[str, Any], group: str) -> int:
    """Items of a group: those of the tasks in it."""
    inside = found.get("group_subtasks", {}).get(group, [])
    return sum(
        found["n-samples"][name]["effective"]
        if name in found["n-samples"]
        else _leaves(found, name)
        for name in inside
    )
