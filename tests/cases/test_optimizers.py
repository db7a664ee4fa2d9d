"""Whose optimizer a checkpoint holds: its step is that of the optimizer that it is of, or one line.

Right values: one real step of the optimizer that left the state.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases.trained import Trained, trained
from command import influbench
from transformers import Trainer

from influbench import models, testing
from influbench.errors import UserError
from influbench.estimator import Context, as_scores, registry
from influbench.student import load_student
from influbench.testing import families

RATE = 3e-3
CANDIDATES = testing.tiny_examples("candidate", 3)
REFERENCES = testing.tiny_examples("reference", 2)
LEARNT = testing.tiny_examples("learnt", 4)
Made = Callable[[Any], torch.optim.Optimizer]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return families.build("tinyllama", tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def plain(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(base, tmp_path_factory.mktemp("plain"), adamw())[1].folder


def checkpoint(
    base: Path, folder: Path, made: Made
) -> tuple[Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer], Trained]:
    """A training with an optimizer over all weights; that optimizer, on others, and the rest."""

    def create(job: Any, *_: Any) -> Any:
        job.optimizer = job.optimizer or made(list(job.model.parameters()))
        return job.optimizer

    kind = type("Own", (Trainer,), {"create_optimizer": create})
    run = trained(folder, base, LEARNT, trainer=kind)
    state = torch.load(run.folder / "optimizer.pt", weights_only=True)

    def over(weights: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        optimizer = made(weights)
        optimizer.load_state_dict(copy.deepcopy(state))
        return optimizer

    return over, run


def influences(over: Any, run: Trained) -> list[float]:
    """By how much one real step lowers the mean reference loss, against an empty step."""

    def after(candidate: Any) -> float:
        model = copy.deepcopy(run.model)
        weights = list(model.parameters())
        optimizer = over(weights)
        for weight in weights:
            weight.grad = torch.zeros_like(weight)
        if candidate is not None:
            run.loss(model, candidate).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        with torch.no_grad():
            return sum(float(run.loss(model, r)) for r in REFERENCES) / len(REFERENCES)

    null = after(None)
    return [null - after(candidate) for candidate in CANDIDATES]


def scores(folder: Path, estimator: str = "exact") -> np.ndarray:
    context = Context(
        student=load_student(models.resolve(str(folder))),
        reference=REFERENCES,
        warmup=(),
        scratch=folder / "scratch",
        seed=0,
    )
    return as_scores(registry.build(estimator, {}).prepare(context)(CANDIDATES), 3).value


def adamw(**options: Any) -> Made:
    return lambda weights: torch.optim.AdamW(weights, lr=RATE, **options)


def adam(**options: Any) -> Made:
    return lambda weights: torch.optim.Adam(weights, lr=RATE, **options)


def sgd(**options: Any) -> Made:
    return lambda weights: torch.optim.SGD(weights, lr=0.1, **options)


ACCEPTED: dict[str, Made] = {
    "adamw": adamw(betas=(0.8, 0.99), eps=1e-6),
    "for each": adamw(foreach=True),
    "fused": adamw(fused=True),
    "adam": adam(),
    "adam, fused": adam(fused=True),
    "adam with decay of its own": adam(weight_decay=0.1, decoupled_weight_decay=True),
    "a tensor of a rate": lambda weights: torch.optim.AdamW(weights, lr=torch.tensor(RATE)),
    "sgd": sgd(),
    "sgd with momentum": sgd(momentum=0.9, weight_decay=0.01),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_the_step_is_the_optimizers(name: str, base: Path, tmp_path: Path) -> None:
    over, run = checkpoint(base, tmp_path / "run", ACCEPTED[name])
    right = influences(over, run)
    assert scores(run.folder) == pytest.approx(right, abs=3e-6)
    assert np.ptp(right) > 1e-4


REFUSED: dict[str, tuple[Made, str]] = {
    "radam": (lambda w: torch.optim.RAdam(w, lr=RATE), "without its option amsgrad"),
    "radam with decay of its own": (
        lambda w: torch.optim.RAdam(w, lr=RATE, weight_decay=0.1, decoupled_weight_decay=True),
        "without its option amsgrad",
    ),
    "nadam": (lambda w: torch.optim.NAdam(w, lr=RATE), "mu_product"),
    "adamax": (lambda w: torch.optim.Adamax(w, lr=RATE), "exp_inf"),
    "adagrad": (lambda w: torch.optim.Adagrad(w, lr=RATE), "it keeps step, sum"),
    "rmsprop": (lambda w: torch.optim.RMSprop(w, lr=RATE), "square_avg"),
    "rmsprop with momentum": (
        lambda w: torch.optim.RMSprop(w, lr=RATE, momentum=0.9),
        "it keeps momentum_buffer, square_avg",
    ),
    "amsgrad": (adamw(amsgrad=True), "AdamW's with amsgrad"),
    "maximize": (adamw(maximize=True), "AdamW's with maximize"),
    "adam with decay": (adam(weight_decay=0.1), "weight decay in the gradient"),
    "nesterov": (sgd(momentum=0.9, nesterov=True), "SGD's with nesterov"),
    "dampening": (sgd(momentum=0.9, dampening=0.1), "SGD's with dampening"),
}


def one_line(folder: Path, why: str) -> None:
    """Refused as a step, and nowhere else."""
    with pytest.raises(UserError, match=rf"{why}.*--warmup") as told:
        scores(folder)
    assert "\n" not in str(told.value)
    assert np.isfinite(scores(folder, "gradient_dot")).all()


@pytest.mark.parametrize("name", REFUSED)
def test_another_optimizer_is_one_line(name: str, base: Path, tmp_path: Path) -> None:
    made, why = REFUSED[name]
    one_line(checkpoint(base, tmp_path / "run", made)[1].folder, why)


# Optimizers that are not installed, by what they write.


def rewritten(plain: Path, folder: Path, change: Callable[[Any, Any], None]) -> Path:
    """A plain checkpoint with another group and other slots."""
    folder.mkdir()
    for path in plain.iterdir():
        if path.is_file():
            (folder / path.name).hardlink_to(path)
    state = torch.load(plain / "optimizer.pt", weights_only=True)
    change(state["param_groups"][0], state["state"].values())
    (folder / "optimizer.pt").unlink()
    torch.save(state, folder / "optimizer.pt")
    return folder


def group_of(*names: str, **options: Any) -> Callable[[Any, Any], None]:
    """The group has those of its options alone, and further ones."""

    def change(group: Any, _: Any) -> None:
        kept = {name: group[name] for name in ("params", "lr", "weight_decay", *names)}
        group.clear()
        group.update(kept, **options)

    return change


ADAM = ("betas", "eps")


def apex(group: Any, slots: Any) -> None:
    steps = [int(slot.pop("step")) for slot in slots]
    group_of(*ADAM, bias_correction=True, step=steps[0])(group, slots)


def numbers(group: Any, slots: Any) -> None:
    for slot in slots:
        slot["step"] = int(slot["step"])
    group_of(*ADAM, "amsgrad")(group, slots)


def differentiable(group: Any, _: Any) -> None:
    group["differentiable"] = True


def noted(group: Any, _: Any) -> None:
    group.update(name="all", lr_scale=0.5, initial_lr=RATE, param_names=["x"] * 3, max_lr=RATE)


OTHERS_ADAMW: dict[str, Callable[[Any, Any], None]] = {
    "torch 1.10": numbers,
    "torch 2.0": group_of(
        *(*ADAM, "amsgrad", "maximize", "foreach", "capturable", "differentiable", "fused")
    ),
    "torch 2.0 on a GPU": group_of(*ADAM, amsgrad=False, capturable=True, fused=True),
    "DeepSpeed on a CPU": group_of(*ADAM, "amsgrad", bias_correction=True),
    "DeepSpeed": group_of(*ADAM, bias_correction=True),
    "apex": apex,
    "differentiable": differentiable,
    "a schedule's and a user's notes": noted,
}


@pytest.mark.parametrize("name", OTHERS_ADAMW)
def test_an_adamw_of_other_versions_is_one(name: str, plain: Path, tmp_path: Path) -> None:
    folder = rewritten(plain, tmp_path / "c", OTHERS_ADAMW[name])
    assert scores(folder) == pytest.approx(scores(plain), abs=1e-12)


def keeps(**more: Any) -> Callable[[Any, Any], None]:
    """A weight has more entries, as large as its moments."""

    def change(_: Any, slots: Any) -> None:
        for slot in slots:
            slot.update({name: torch.zeros_like(slot["exp_avg"]) for name in more})

    return change


def factored(_: Any, slots: Any) -> None:
    for slot in slots:
        slot["exp_avg_sq"] = slot["exp_avg_sq"].sum()


def schedule_free(_: Any, slots: Any) -> None:
    for slot in slots:
        slot["z"] = slot.pop("exp_avg")


def momentum(*names: str, **options: Any) -> Callable[[Any, Any], None]:
    """An optimizer that keeps what SGD keeps."""

    def change(group: Any, slots: Any) -> None:
        for slot in slots:
            kept = slot["exp_avg"]
            slot.clear()
            slot["momentum_buffer"] = kept
        group_of(*names, momentum=0.9, **options)(group, slots)

    return change


PLAIN_SGD = {"dampening": 0, "nesterov": False}
OTHERS: dict[str, tuple[Callable[[Any, Any], None], str]] = {
    "transformers 4, uncorrected": (group_of(*ADAM, correct_bias=False), "correct_bias"),
    # Its ε stands before the correction, and cautious optimizers write the same.
    "transformers 4": (group_of(*ADAM, correct_bias=True), "correct_bias"),
    "apex, uncorrected": (group_of(*ADAM, bias_correction=False), "bias_correction is off"),
    "LAMB of DeepSpeed": (group_of(*ADAM, bias_correction=True, max_coeff=10.0), "max_coeff"),
    "ADOPT": (group_of(*ADAM, "maximize", "foreach", decouple=True), "decouple"),
    "AdamP": (group_of(*ADAM, delta=0.1, wd_ratio=0.1, nesterov=False), "delta, nesterov"),
    "cautious AdamW of timm": (group_of(*ADAM, "amsgrad", caution=True), "option caution"),
    "GrokAdamW": (keeps(grok_ema=1), "grok_ema"),
    "AdEMAMix": (keeps(exp_avg_slow=1), "exp_avg_slow"),
    "Adan": (keeps(exp_avg_diff=1, neg_pre_grad=1), "exp_avg_diff"),
    "schedule-free AdamW": (schedule_free, "it keeps exp_avg_sq, step, z"),
    "NovoGrad": (factored, "no two moments of each weight's shape"),
    "LARS": (momentum(**PLAIN_SGD, trust_coeff=0.001), "SGD has no option trust_coeff"),
    "SGDW": (momentum(**PLAIN_SGD, weight_decouple=True), "weight_decouple"),
    "Muon": (momentum(ns_steps=5, nesterov=True), "a group of it has no dampening"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_one_that_keeps_the_same_is_told_apart(name: str, plain: Path, tmp_path: Path) -> None:
    change, why = OTHERS[name]
    one_line(rewritten(plain, tmp_path / "c", change), why)


def test_every_group_is_looked_at(base: Path, tmp_path: Path) -> None:
    folder = trained(tmp_path / "run", base, LEARNT).folder
    state = torch.load(folder / "optimizer.pt", weights_only=True)
    state["param_groups"][1]["use_muon"] = True
    torch.save(state, folder / "optimizer.pt")
    one_line(folder, "option use_muon")


def test_the_command_ends_with_the_line(base: Path, tmp_path: Path) -> None:
    run = checkpoint(base, tmp_path / "run", REFUSED["radam"][0])[1]
    rows = [{"id": e.id, "instruction": e.instruction, "response": e.response} for e in CANDIDATES]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = influbench(
        *("score", "--student", str(run.folder), "--candidates", "c.jsonl"),
        *("--reference", "c.jsonl", "--estimator", "exact", "--out", "out.jsonl"),
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert "another optimizer than AdamW and SGD" in done.stderr
    assert "bug" not in done.stderr
