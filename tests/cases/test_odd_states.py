"""A state of the right form with numbers of no use: one line for its step, as without moments."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases.trained import Trained, trained
from safetensors.torch import load_file, save_file

from influbench import models, score, testing
from influbench.errors import UserError
from influbench.estimator import Context, as_scores, registry
from influbench.student import load_student
from influbench.testing import families

CANDIDATES = testing.tiny_examples("candidate", 3)
REFERENCES = testing.tiny_examples("reference", 2)
LEARNT = testing.tiny_examples("learnt", 4)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("plain")
    return trained(folder / "run", families.build("tinyllama", folder / "base"), LEARNT)


def changed(plain: Trained, folder: Path, change: Callable[[Any, Any], None]) -> Path:
    """A copy of the checkpoint, its state after ``change`` of the whole and of the first slot."""
    shutil.copytree(plain.folder, folder)
    state = torch.load(folder / "optimizer.pt", weights_only=True)
    change(state, state["state"][0])
    torch.save(state, folder / "optimizer.pt")
    return folder


def scores(folder: Path, estimator: str) -> np.ndarray:
    context = Context(
        student=load_student(models.resolve(str(folder))),
        reference=REFERENCES,
        warmup=(),
        scratch=folder / "scratch",
        seed=0,
    )
    return as_scores(registry.build(estimator, {}).prepare(context)(CANDIDATES), 3).value


def cast(dtype: torch.dtype, *names: str) -> Callable[[Any, Any], None]:
    def change(state: Any, _: Any) -> None:
        for slot in state["state"].values():
            slot.update({name: slot[name].to(dtype) for name in names or ("exp_avg", "exp_avg_sq")})

    return change


def slot(**values: Any) -> Callable[[Any, Any], None]:
    return lambda _, first: first.update(values)


def filled(name: str, value: float) -> Callable[[Any, Any], None]:
    return lambda _, first: first[name][1].fill_(value)


def group(**values: Any) -> Callable[[Any, Any], None]:
    return lambda state, _: state["param_groups"][1].update(values)


def twice(state: Any, _: Any) -> None:
    numbers = state["param_groups"][0]["params"]
    numbers[1] = numbers[0]


def texts(state: Any, _: Any) -> None:
    state["state"] = {str(number): own for number, own in state["state"].items()}


def halved_and_back(state: Any, first: Any) -> None:
    cast(torch.float16)(state, first)
    cast(torch.float32)(state, first)


ODD: dict[str, tuple[Callable[[Any, Any], None], str]] = {
    "float16": (cast(torch.float16), "second moments of weight 0 are 0 .* now"),
    "float16 once": (halved_and_back, "second moments of weight 0 are 0"),
    "integers": (cast(torch.int8, "exp_avg"), "exp_avg of weight 0 in torch.int8"),
    "8 bits": (cast(torch.float8_e4m3fn), "exp_avg of weight 0 in torch.float8_e4m3fn"),
    "NaN": (filled("exp_avg", np.nan), "exp_avg of weight 0 with NaN or infinity"),
    "infinite": (filled("exp_avg_sq", np.inf), "exp_avg_sq of weight 0 with NaN or infinity"),
    "below 0": (filled("exp_avg_sq", -1e-6), "exp_avg_sq of weight 0 with -1e-06"),
    "a step below 0": (slot(step=torch.tensor(-1.0)), "a step tensor.* of weight 0"),
    "steps": (slot(step=torch.tensor([3.0, 3.0])), "a step tensor.* of weight 0"),
    "one beta": (group(betas=(0.9,)), r"betas \(0.9,\)"),
    "a beta of 1": (group(betas=(0.9, 1.0)), r"betas \(0.9, 1.0\): expected two numbers"),
    "no betas": (group(betas=None), "betas None"),
    "a rate of NaN": (group(lr=float("nan")), "lr nan"),
    "a rate below 0": (group(lr=-1e-3), "lr -0.001"),
    "no ε": (group(eps=None), "eps None"),
    "decay of NaN": (group(weight_decay=float("nan")), "weight_decay nan"),
    "twice": (twice, "a weight stands twice"),
    "texts": (texts, "moments of a weight '0' that is in no group"),
}


@pytest.mark.parametrize("name", ODD)
def test_numbers_of_no_use_are_one_line(name: str, plain: Trained, tmp_path: Path) -> None:
    change, why = ODD[name]
    folder = changed(plain, tmp_path / "c", change)
    for method in ("exact", "first_order"):
        with pytest.raises(UserError, match=rf"{why}.*--warmup") as told:
            scores(folder, method)
        assert "\n" not in str(told.value)
    assert np.isfinite(scores(folder, "gradient_dot")).all()


def test_a_warm_up_stands_in(plain: Trained, tmp_path: Path) -> None:
    folder = changed(plain, tmp_path / "c", cast(torch.float16))
    found = score(
        student=folder,
        candidates=CANDIDATES,
        reference=REFERENCES,
        warmup=LEARNT,
        estimator="exact",
        store=tmp_path / "store",
    )
    assert 0 < np.abs(found["score"]).max() < 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_moments_in_other_floats_are_read(
    dtype: torch.dtype, plain: Trained, tmp_path: Path
) -> None:
    folder = changed(plain, tmp_path / "c", cast(dtype))
    kept = {
        name: {k: own[k].to(dtype).float() if "exp" in k else own[k] for k in own}
        for name, own in plain.state.items()
    }
    right = Trained(folder, plain.model, plain.tokenizer, kept).influences(CANDIDATES, REFERENCES)
    assert scores(folder, "exact") == pytest.approx(right, abs=3e-6)


def test_weights_with_nan_are_one_line(tmp_path: Path) -> None:
    folder = families.build("tinyllama", tmp_path / "base")
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights["model.layers.0.mlp.gate_proj.weight"][0, 0] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match="logits are NaN or infinite"):
        load_student(models.resolve(str(folder)))
