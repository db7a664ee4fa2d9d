"""lm-eval harness as a library: accuracy on MMLU, GPQA, ARC-C, GSM8K, HellaSwag and others.

The numbers are the harness's own; what is added are the paper's shots, outcomes item by item, and
standard errors from them. One task is one stage.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from influbench import models
from influbench.config import transport
from influbench.data.records import ModelRef, Outcome
from influbench.errors import UserError
from influbench.evaluation.settings import PREFIX, HarnessSettings
from influbench.evaluation.suite import Marks, Needs, Sitting
from influbench.evaluation.suites import harness_files
from influbench.statistics.estimate import Estimate
from influbench.store import Stage, Work

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


class TaskConfig(HarnessSettings):
    """One task."""

    task: str
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: str = transport("auto")


@dataclass(frozen=True, kw_only=True)
class Harness:
    """The suite ``harness:TASK``."""

    cfg: TaskConfig
    content: str
    """Digest of the files that the task reads."""
    needs = Needs()

    @property
    def name(self) -> str:
        """With the task, which is how settings ask for it."""
        return f"{PREFIX}{self.cfg.task}"

    def mark(self, sitting: Sitting) -> Marks:
        """The harness's own numbers, as fractions, and its outcomes by item and metric."""
        entry = sitting.run(
            STAGE, self.cfg, self.content, sitting.student, label=f"{self.cfg.task}-{sitting.label}"
        )
        shots = ", ".join(f"{task} {count}" for task, count in entry.meta["shots"].items())
        sitting.notes.append(f"{self.name}: few-shot examples: {shots}")
        numbers = {n.name: n for n in entry.records("numbers", TaskNumber)}
        return Marks(entry.records("outcomes", Outcome), numbers)


def suite(name: str, settings: HarnessSettings, *, dtype: str, device: str) -> Harness:
    """The suite of one task, whose files are read and checked.

    Raises:
        UserError: lm-eval is not installed, or a file is missing.
    """
    task = name.removeprefix(PREFIX)
    own = task == harness_files.OFFLINE_GSM8K and settings.gsm8k_train and settings.gsm8k_test
    unused: dict[str, None] = (
        {"include_path": None} if own else {"gsm8k_train": None, "gsm8k_test": None}
    )
    cfg = settings.into(TaskConfig, task=task, dtype=dtype, device=device, **unused)
    files = (settings.gsm8k_train, settings.gsm8k_test)
    given = [path for path in files if path is not None] if own else []
    return Harness(cfg=cfg, content=harness_files.content(task, given, cfg.include_path))


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskNumber(Estimate):
    """One number of the harness, as it says it."""

    name: str
    """``task/metric`` or ``task/metric/filter``."""
    unit: str = "fraction"


@dataclass(frozen=True, kw_only=True)
class HarnessResult:
    """What the harness says, and what it is made of."""

    numbers: Sequence[TaskNumber]
    outcomes: Sequence[Outcome]
    """By item of each leaf task: ``metric`` as in ``numbers``, ``category`` the task."""
    shots: Mapping[str, int]
    """Few-shot examples that were used, by leaf task."""


def measure(cfg: TaskConfig, content: str, student: ModelRef, *, work: Work) -> None:  # noqa: ARG001
    """Writes ``numbers`` and ``outcomes``; ``work.meta`` has the shots of each task.

    Args:
        cfg: the task.
        content: see ``harness_files.content``; only there so that other files make another entry.
        student: the model.
        work: where the stage writes.

    Raises:
        UserError: see :func:`evaluate`.
    """
    with work.meter.phase("load"):
        loaded = models.load(student, dtype=cfg.dtype, device=cfg.device)
    if cfg.gsm8k_train and cfg.gsm8k_test:
        shots = PAPER_SHOTS["gsm8k"] if cfg.shots is None else cfg.shots
        folder = work.folder("scratch")
        harness_files.offline_gsm8k(folder, cfg.gsm8k_train, cfg.gsm8k_test, shots=shots)
        cfg = cfg.model_copy(update={"include_path": folder})
    with work.meter.phase("harness", models=[loaded.model]) as phase:
        found = evaluate(loaded, cfg)
        phase.cost.items = len({outcome.item for outcome in found.outcomes})
    work.write("numbers", found.numbers)
    work.write("outcomes", found.outcomes)
    work.meta["shots"] = dict(found.shots)


def evaluate(model: LoadedModel, cfg: TaskConfig) -> HarnessResult:
    """Scores a model on a task of the harness.

    Args:
        model: with its tokenizer; the pair of ``models.load``.
        cfg: the task and how it is put.

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
    if cfg.task not in manager.all_tasks:
        some = [task for task in manager.all_tasks if task[:4] == cfg.task[:4]][:8]
        raise UserError(
            f"no task named '{cfg.task}' in {cfg.include_path or 'the harness'}; "
            + (f"near it: {some}" if some else "'lm_eval ls tasks' lists the harness's own")
        )
    wrapped = HFLM(
        pretrained=model.model,
        tokenizer=model.tokenizer,
        batch_size=cfg.batch_size,
        device=str(model.model.device),
        max_length=cfg.max_length,
    )
    with _data_errors(cfg.task):
        found = simple_evaluate(
            model=wrapped,
            tasks=[cfg.task],
            num_fewshot=PAPER_SHOTS.get(cfg.task) if cfg.shots is None else cfg.shots,
            limit=cfg.limit,
            bootstrap_iters=0,
            apply_chat_template=cfg.chat,
            fewshot_as_multiturn=cfg.chat,
            task_manager=manager,
            fewshot_random_seed=cfg.seed,
            log_samples=True,
        )
    assert found is not None, "the harness returns results in the main process"
    outcomes = list(_outcomes(found))
    return HarnessResult(
        numbers=_numbers(found, outcomes),
        outcomes=outcomes,
        shots={name: int(shots) for name, shots in found["n-shot"].items()},
    )


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
def _data_errors(task: str) -> Generator[None]:
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


def _numbers(found: dict[str, Any], outcomes: Sequence[Outcome]) -> list[TaskNumber]:
    """The harness's numbers, with standard errors from the items where those are plain means."""
    spread: dict[str, list[float]] = {}
    for outcome in outcomes:
        spread.setdefault(outcome.metric, []).append(outcome.value)
    numbers: list[TaskNumber] = []
    for task, stated in found["results"].items():
        count = found["n-samples"].get(task, {}).get("effective")
        for key, value in stated.items():
            metric, _, choice = key.partition(",")
            if not choice or metric.endswith("_stderr") or not isinstance(value, (int, float)):
                continue
            name = _name(task, metric, choice)
            error = _stderr(spread.get(name, []), float(value))
            size = int(count or _leaves(found, task))
            numbers.append(TaskNumber(name=name, value=float(value), stderr=error, n=size))
    return numbers


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


STAGE = Stage("harness", 3, measure)
