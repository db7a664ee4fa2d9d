"""Measures how fast this machine works, with the small model that comes in a package.

What is timed is what a run does: the student's own passes, trainings by their stages, the sampler,
a local judge. Each kind of pass is timed short and long, since a part of it is the same however few
tokens it has; a model that is next to nothing tells what its layers' calls alone take.
"""

from __future__ import annotations

from dataclasses import replace

import psutil
import torch

from influbench import models
from influbench.loop.plan.calibration import Speeds
from influbench.loop.plan.clock import Clock
from influbench.loop.plan.devices import TOGETHER
from influbench.loop.plan.parts import TYPES, Parts
from influbench.loop.plan.shapes import shape_of
from influbench.student.budgets import ON_A_CPU

MODEL = "smollm2-135m-instruct"
SMALL = "tiny"
"""Next to no weights: its passes are calls alone."""


def calibrate(device: str = "auto", model: str = MODEL) -> Speeds:
    """The speeds of this machine.

    Args:
        device: where.
        model: a model that :func:`influbench.loop.plan.shapes.shape_of` knows.
    """
    place = models.device_of(device)
    clock = Clock(place)
    launch = _launch(clock, device)
    small = Parts(clock, device, SMALL, models.resolve(SMALL), shape_of(SMALL), launch)
    parts = Parts(clock, device, model, models.resolve(model), shape_of(model), launch)
    read, learn, others = parts.student()
    train = {name: parts.trained(name) for name in TYPES}
    pair = {name: parts.paired(name) for name in TYPES}
    prompt = {name: parts.prompted(name) for name in TYPES}
    stream: dict[str, float] = {}
    write: dict[str, float] = {}
    for name in TYPES:
        stream[name], write[name] = parts.decoded(name)
    update = others["update"]
    # A step of the Trainer changes the weights as well, which is priced by itself.
    train = {k: replace(p, weight=max(p.weight - 1 / update, 0.0)) for k, p in train.items()}
    for paces in (read, learn, train, pair, prompt):
        paces["tf32"] = paces["float32"]
    spent, rest = f", {torch.get_num_threads()} threads" if place == "cpu" else "", clock.others()
    if rest > 0.1:
        spent += f", while others kept {rest:.1f} of {psutil.cpu_count()} cores busy"
    return Speeds(
        where=f"this machine ({models.device_in_words(place)}), measured with {model}{spent}",
        read=read,
        prompt=prompt,
        learn=learn,
        train=train,
        pair=pair,
        stream=stream,
        write=write,
        update=update,
        move=others["move"],
        load=others["load"],
        opened=others["opened"],
        save=others["save"],
        training=small.started(),
        launch=launch,
        together=ON_A_CPU if place == "cpu" else TOGETHER,
        alone=place == "cpu",
        memory=_memory(place),
    )


def _launch(clock: Clock, device: str) -> float:
    """Seconds of a layer whose products are nothing."""
    net, _ = models.load(models.resolve(SMALL), device=device)
    ids = torch.zeros(1, 4, dtype=torch.long, device=net.device)
    with torch.inference_mode():
        return clock.of(lambda: net(input_ids=ids, use_cache=False)) / shape_of(SMALL).layers


def _memory(device: str) -> float:
    if device == "cpu":
        return float(psutil.virtual_memory().total)
    return float(torch.cuda.get_device_properties(device).total_memory)
