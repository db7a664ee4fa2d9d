"""Stages with their work become seconds, bytes and dollars at a device's speeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from influbench.loop.plan.calibration import Pace, Speeds
from influbench.loop.plan.shapes import Shape, shape_of
from influbench.loop.plan.task import Task
from influbench.loop.settings import RunConfig

BYTES = {"float32": 4, "tf32": 4, "bfloat16": 2}
SCORING, OFFLOADED, TRAINING = 20, 6, 16
"""Bytes a weight: fp32 weights, two moments, a gradient and a copy; bf16 or fp32 weights and the
gradient alone; weights, gradient and moments."""


SCORED = ("score", "noise_floor")
"""Stages that hold a student with its optimizer."""
TRAINED = ("sft", "dpo")
"""Stages that a Trainer does."""
SHARDED = "would need shards:"
"""A training that does not fit one device; priced over all, though trainings use one today."""
REQUEST_S = 4.0
"""Of one request to an endpoint; assumed."""
BUS = 54e9
"""Bytes a second between pinned host memory and an H100: measured, see docs/LOG.md."""


@dataclass(frozen=True)
class Priced:
    """One stage and its price."""

    task: Task
    seconds: float
    """On the devices that it uses."""
    devices: int
    memory: float
    """Bytes on each device."""
    placement: str
    money: float
    """US dollars for a judge that is paid."""
    disk: float
    """Bytes that stay in the store."""


def price(cfg: RunConfig, found: Sequence[Task], speeds: Speeds, devices: int = 1) -> list[Priced]:
    """What each stage costs.

    Raises:
        UserError: a model whose size is not known.
    """
    names = {"teacher": cfg.teacher.name, "student": cfg.student.name, "judge": cfg.judge.model}
    here = {"judge": cfg.judge.kind in ("local", "vllm"), "teacher": cfg.teacher.kind == "weights"}
    return [
        _priced(
            cfg,
            task,
            shape_of(task.model or names[task.who]) if here.get(task.who, True) else None,
            speeds,
            devices,
        )
        for task in found
    ]


def stand_ins(cfg: RunConfig) -> list[str]:
    """What is priced as something else than will do it, in words."""
    engines = {
        "generation.engine": "hf" if cfg.teacher.kind == "endpoint" else cfg.generation.engine,
        "evaluation.answers.engine": cfg.evaluation.answers.engine,
        "evaluation.turns.engine": cfg.evaluation.turns.engine,
        "judge.kind": "vllm" if cfg.judge.kind == "vllm" else "hf",
    }
    served = [f"{name} = {engine}" for name, engine in engines.items() if engine != "hf"]
    if not served:
        return []
    return [
        f"{', '.join(served)}: priced as Hugging Face in this process; what a server takes for the "
        "same tokens, and every start of vLLM (minutes where it compiles), was not measured here"
    ]


def _priced(
    cfg: RunConfig, task: Task, shape: Shape | None, speeds: Speeds, devices: int
) -> Priced:
    money = (task.prompt * cfg.judge.prompt_price + task.replies * cfg.judge.completion_price) / 1e6
    if shape is None and task.who == "teacher":
        told = cfg.generation
        read = task.read * task.items / max(task.passes, 1)  # every row, siblings too
        money = read * told.server_prompt_price + task.decoded * told.server_completion_price
        seconds = task.items * REQUEST_S / told.server_concurrency
        return Priced(task, seconds, 0, 0, "endpoint", money / 1e6, task.items * 3e3)
    if shape is None:  # the endpoint's own time: so many requests at once
        seconds = task.calls * REQUEST_S / cfg.judge.concurrency
        return Priced(task, seconds, 0, 0, "endpoint", money, task.calls * 2e3)
    if not (task.passes or task.decoded or task.calls or task.trains or task.updates):
        return Priced(task, seconds_of(task, shape, speeds), 0, 0, "host", 0.0, task.items * 3e3)
    memory, placement = _memory(task, shape, speeds.memory, devices)
    used = min(devices, max(1, int(task.items))) if task.shared else 1
    if placement.startswith(SHARDED):
        used = devices
    seconds = seconds_of(task, shape, speeds)
    if placement == "offloaded":  # weights and moments, there and back over a step and its undoing
        seconds += task.moves * 12 * shape.parameters / BUS
    return Priced(
        task,
        seconds / used,
        used,
        memory,
        placement,
        0.0,
        task.saved * 4 * shape.parameters + task.items * 3e3,
    )


def seconds_of(task: Task, shape: Shape, speeds: Speeds) -> float:
    """Seconds of one stage on one device, loading included."""
    weights, compute = shape.parameters, task.compute
    narrow = "bfloat16" if compute == "bfloat16" else "float32"
    judged = task.prompt if task.who == "judge" else 0
    asks = judged > 0 or task.steps > 0
    tokens = task.read + judged
    pace = (speeds.prompt if asks else speeds.read)[compute]
    seconds = tokens * 2 * weights / pace.flops
    seconds += _calls(task, speeds, task.readings, tokens) * _begun(pace, shape, speeds.launch)
    # A frozen weight needs no gradient of its own; layers may be computed again going back.
    passes = (2 if task.trains == "lora" else 3) + task.again
    pace = _learning(task, speeds)[compute]
    seconds += passes * task.learn * 2 * weights / pace.flops
    begun = _begun(pace, shape, passes * speeds.launch)
    seconds += _calls(task, speeds, task.gradients, task.learn) * begun
    step = BYTES[narrow] * weights / speeds.stream[narrow] + shape.layers * speeds.launch
    seconds += task.steps * step + task.decoded * 2 * weights / speeds.write[narrow]
    seconds += task.updates * weights / speeds.update + task.moves * weights / speeds.move
    if task.read or task.learn or task.steps or judged:
        moments = task.stage in SCORED and task.moves > 0
        seconds += (12 if moments else 4) * weights / speeds.load
        seconds += shape.vocabulary * speeds.opened
    if task.stage in TRAINED:
        seconds += speeds.training
    return seconds + task.saved * 4 * weights / speeds.save


def _learning(task: Task, speeds: Speeds) -> Mapping[str, Pace]:
    if task.stage == "dpo" and task.trains == "lora":
        return speeds.pair
    return speeds.train if task.stage == "sft" else speeds.learn


def _begun(pace: Pace, shape: Shape, launch: float) -> float:
    """Seconds of a pass however short it is."""
    return pace.weight * shape.parameters + shape.layers * launch


def _calls(task: Task, speeds: Speeds, times: float, tokens: float) -> float:
    """Passes that so many tokens take which stand together so many times."""
    if (task.stage == "dpo" or task.who == "judge") and not speeds.alone:
        times = min(times, 1)
    return max(times, tokens / speeds.together) if times else 0


def _memory(task: Task, shape: Shape, room: float, devices: int) -> tuple[float, str]:
    weights = shape.parameters
    if task.trains == "full":
        held = _activations(shape, again=task.again)
        whole = TRAINING * weights + held
        if whole <= room or devices == 1:
            return whole, "device" if whole <= room else "does not fit one device"
        part = TRAINING * weights / devices + held
        return part, f"{SHARDED} {devices}" if part <= room else "does not fit"
    if task.trains == "lora":
        whole = 4.3 * weights + _activations(shape, again=task.again)
        return whole, "device" if whole <= room else "does not fit one device"
    if task.stage in SCORED and task.learn:
        whole = SCORING * weights + _activations(shape)
        if whole <= room:
            return whole, "device"
        part = OFFLOADED * weights + _activations(shape)
        return part, "offloaded" if part <= room else "does not fit"
    cache = task.rows * 1024 * shape.layers * shape.cached * BYTES[task.compute]
    whole = BYTES[task.compute] * weights + cache
    return whole, "device" if whole <= room else "does not fit one device"


def _activations(shape: Shape, *, again: bool = False) -> float:
    """Of 2048 tokens in one pass with gradients, layers and logits.

    Where layers are computed again: of one layer at a time, and what goes into each.
    """
    layers = shape.width * 34 * 2
    kept = shape.layers * shape.width * 4 + layers if again else shape.layers * layers
    return 2048 * (kept + shape.vocabulary * 8)
